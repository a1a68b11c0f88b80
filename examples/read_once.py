"""A document is read once, into a file; questions about it start without reading it again."""

import sys
import tempfile
from pathlib import Path

from whimbrel import LLM

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
document = Path(__file__).parent / "documents" / "pep-0616.txt"
question = "In one sentence: which two methods does this document propose to add to strings?"
with tempfile.TemporaryDirectory() as folder:
    kept = Path(folder) / "pep.kv"
    with LLM(model, context=8192) as llm:
        reading = llm.read_document(document, kept)
        print(f"read {reading.tokens:,} tokens into {reading.file_bytes / 1e6:.0f} MB")
    # Another day: settings are those of the reading, and the cache holds the question and its answer alone.
    with LLM(model, **LLM.document_settings(kept)) as llm, llm.open_document(kept) as pep:
        answer = pep.ask(question, max_tokens=64)
        print(answer.text)
        print(f"{answer.usage.cached_tokens:,} of {answer.usage.prompt_tokens:,} tokens were not read again")

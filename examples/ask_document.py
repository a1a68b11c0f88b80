"""A question about a document, with its cost in tokens and seconds."""

import sys
from pathlib import Path

from whimbrel import LLM

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
document = (Path(__file__).parent / "documents" / "pep-0616.txt").read_text(encoding="utf-8")
question = "In one sentence: which two methods does this document propose to add to strings?"
with LLM(model, context=8192) as llm:
    answer = llm.chat(f"{document}\n\n---\n\n{question}", max_tokens=64)
    print(answer.text)
    usage, seconds = answer.usage, answer.timings
    print(f"read {usage.prompt_tokens} tokens in {seconds.prefill:.1f} s, wrote {usage.completion_tokens}")

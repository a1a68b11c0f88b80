"""An answer as it is written."""

import sys

from whimbrel import LLM

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
with LLM(model, context=512) as llm:
    for piece in llm.stream([{"role": "user", "content": "Name three colours."}], max_tokens=48):
        print(piece.text, end="", flush=True)
    print()

"""How likely texts are: the model prefers the sentence that people would write."""

import sys

from whimbrel import LLM

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
with LLM(model, context=512) as llm:
    for text in ("The cat sat on the mat.", "The mat sat on the cat.", "Mat the on sat cat the."):
        score = llm.score(text)
        print(f"{score.total:8.2f}  perplexity {score.perplexity:8.1f}  {text}")

"""Turns that keep their cache: the second question reads only what is new."""

import sys

from whimbrel import LLM

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
with LLM(model, context=1024) as llm:
    chat = llm.session(system="You answer in one sentence.")
    for question in ("What is the capital of France?", "And of Italy?"):
        answer = chat.send(question, max_tokens=48)
        read = answer.usage.prompt_tokens - answer.usage.cached_tokens
        print(f"> {question}\n{answer.text}\n({read} tokens read, {answer.usage.cached_tokens} from the cache)")

"""``python slow_server.py CHECKPOINT JSON``: ``whimbrel.server.run.serve`` with a scripted model, as a process of its own.

The JSON has ``settings`` (of ``ServerSettings``), ``step``: seconds that a token takes, ``gate``: a file without which
the model doesn't finish loading. The model never stops by itself, and says "a" again and again.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from whimbrel.backends.llm import LLM
from whimbrel.backends.open import OpenModel
from whimbrel.backends.scripted import ScriptedExecutor
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.loading import load_text_side
from whimbrel.server import logs
from whimbrel.server.run import serve
from whimbrel.server.settings import ServerSettings
from whimbrel.testing import tiny

CONTEXT = 200_000


class Slow(ScriptedExecutor):
    """Takes its time for each step."""

    seconds = 0.0

    def advance(self) -> bool:
        found = super().advance()
        if found:
            time.sleep(self.seconds)
        return found


def main(checkpoint: str, given: str) -> None:
    options = json.loads(given)
    side = load_text_side(Path(checkpoint))
    (letter,) = side.tokenizer.encode("a", add_special=False)

    def load(name: str) -> LLM:
        while "gate" in options and not Path(options["gate"]).exists():
            time.sleep(0.01)
        executor = Slow([[letter] * CONTEXT], max_context=CONTEXT, eos_token_ids=side.tokenizer.eos_token_ids)
        executor.capabilities = replace(executor.capabilities, max_sequences=4)
        executor.seconds = options.get("step", 0.005)
        template = ChatTemplate(tiny.CHAT_TEMPLATE, {})
        return LLM(OpenModel(executor=executor, tokenizer=side.tokenizer, chat_template=template, generation_config={}))

    logs.configure("text", 20)
    settings = ServerSettings(**{"models": ("slow", "other"), "port": 0, **options.get("settings", {})})
    serve(settings, lambda address: print(f"listening on {address}", file=sys.stderr, flush=True), load)


if __name__ == "__main__":
    main(*sys.argv[1:])

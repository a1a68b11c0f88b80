"""What a model thinks is no result: it goes to standard error."""

from pathlib import Path

import pytest

from whimbrel.backends.llm import LLM
from whimbrel.backends.open import OpenModel
from whimbrel.backends.scripted import ScriptedExecutor
from whimbrel.cli.answer import as_json, show_stream
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.loading import load_text_side
from whimbrel.testing import templates, tiny


def test_thoughts_go_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_text_side(tiny.write_checkpoint(tmp_path / "llama")).tokenizer
    answer = [*tokenizer.encode("Hm.\n</think>\n\nYes.", add_special=False), 2]
    llm = LLM(
        OpenModel(
            executor=ScriptedExecutor([answer]),
            tokenizer=tokenizer,
            chat_template=ChatTemplate(templates.DEEPSEEK),
            generation_config={},
        )
    )
    ids = llm.prompt_ids([{"role": "user", "content": "Why?"}])
    completion = show_stream(llm.stream_ids(ids, conversation=True), len(ids))
    shown = capsys.readouterr()
    assert shown.out == "Yes.\n" and shown.err == "Hm.\n\n"
    assert as_json(completion, llm)["reasoning"] == "Hm."
    show_stream(llm.stream_ids(ids, conversation=True), len(ids), quiet=True)
    assert capsys.readouterr() == ("", "")

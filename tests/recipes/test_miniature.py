"""The miniature's stages, on a model of two layers: each of them runs, is not done twice, and is told in the report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra [train]")
pytest.importorskip("matplotlib", reason="needs the extra [plots]")

ROOT = Path(__file__).parents[2]
DOCUMENTS, LENGTH = 40, 2500


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Parts of a real document that overlap."""
    whole = (ROOT / "examples" / "documents" / "pep-0616.txt").read_text(encoding="utf-8")
    step = (len(whole) - LENGTH) // DOCUMENTS
    lines = [json.dumps({"text": whole[at * step : at * step + LENGTH]}) for at in range(DOCUMENTS)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "text.jsonl"


def test_every_stage(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    from miniature import STAGES, Miniature, Size

    from whimbrel.models.loading import load_model

    small = Size(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, vocab_size=400,
        sequence=32, rows=4, steps=900, context=160, long_steps=40, sft_steps=100,
    )  # fmt: skip
    size = replace(small.shorter(10), sft_steps=4)
    assert (size.steps, size.earlier, size.decay, size.long_steps) == (10, (5,), 1, 2)
    run = Miniature(tmp_path / "run", size, text=text, speeches=text)
    run.run(list(STAGES))
    results = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "run" / "results").iterdir()}
    assert set(results) == set(STAGES)
    assert set(results["decays"]) == {"5", "stage_seconds"}, "it ends where the shorter run would have ended"
    losses = results["long"]["losses"]
    assert losses["trained dense, read dense"] != losses["short model, LongRoPE, not trained"]
    assert all(len(values) == 3 and min(values) > 0 for values in losses.values())
    assert 0 <= results["mtp"]["accepted"] <= 1 and results["mtp"]["mtp"]["steps"] == 1
    assert 0 <= results["sft"]["after_sparse"]["long"] <= 1
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert report.count("\n## ") == 4 and "losses.png" in report
    assert load_model(tmp_path / "run" / "model").config.max_position_embeddings == 160
    capsys.readouterr()
    run.run(list(STAGES))
    assert "begun" not in capsys.readouterr().out

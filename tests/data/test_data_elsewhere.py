"""The same filters in Ray, datatrove and Spark's pandas functions."""

import json
from pathlib import Path
from typing import Any

import pytest

from whimbrel.data.document import Document, Drop, Keep, Verdict
from whimbrel.data.filters.quality import SCORE, Quality
from whimbrel.data.reading.files import find
from whimbrel.data.running.adapters import datatrove_step, spark_function
from whimbrel.data.running.local import LocalRunner
from whimbrel.data.running.plan import Plan
from whimbrel.data.running.run import run
from whimbrel.data.scoring.classifier import QualityClassifier
from whimbrel.errors import InvalidParameter


def short(document: Document) -> Verdict:
    if len(document.text) < 5:
        return Drop("short")
    return Keep(text=document.text.upper(), notes={"length": len(document.text)})


def test_a_step_of_datatrove() -> None:
    data = pytest.importorskip("datatrove.data", reason="needs datatrove")
    step = datatrove_step(short)
    documents = [data.Document(text=text, id=str(i)) for i, text in enumerate(["abc", "abcdef", "a", "xyzxyz"])]
    kept = list(step.run(iter(documents), 0, 1))
    assert [document.text for document in kept] == ["ABCDEF", "XYZXYZ"] and kept[0].metadata == {"length": 6}
    assert step.stats["dropped: short"].total == 2


def test_a_function_for_spark() -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.DataFrame({"body": ["abc", "abcdef", "xyzxyz"], "n": [1, 2, 3]})
    made = spark_function(lambda: short, column="body", notes=["length"])
    (kept,) = made(iter([frame]))
    assert kept.to_dict("list") == {"body": ["ABCDEF", "XYZXYZ"], "n": [2, 3], "length": [6, 6]}
    with pytest.raises(InvalidParameter, match="it has body, n"):
        list(spark_function(lambda: short)(iter([frame])))


@pytest.mark.slow
def test_ray_writes_what_local_processes_do(
    tmp_path: Path, model: Path, bpe: Path, clean: list[str], noisy: list[str]
) -> None:
    pytest.importorskip("ray.data", reason="needs the extra [ray]")
    import ray

    from whimbrel.data.running.ray import RayRunner

    (tmp_path / "in").mkdir()
    for part in range(3):
        lines = [json.dumps({"text": text}) + "\n" for text in (clean + noisy)[part::3]]
        (tmp_path / "in" / f"{part}.jsonl").write_text("".join(lines))
    filters = (Quality(QualityClassifier(model, bpe), 0.5),)
    options: dict[str, Any] = {"inputs": tuple(find([str(tmp_path / "in")])), "filters": filters, "dedup": "minhash"}
    try:
        mine = run(Plan(output=tmp_path / "ray", **options), RayRunner(2))
    finally:
        ray.shutdown()
    local = run(Plan(output=tmp_path / "local", **options), LocalRunner(1))
    assert mine == local and 0 < local.kept < local.documents
    for path in sorted((tmp_path / "local").glob("*.zst")):
        assert path.read_bytes() == (tmp_path / "ray" / path.name).read_bytes()
    documents = [json.loads(line) for line in _lines(tmp_path / "ray" / "00000.jsonl.zst")]
    assert all(document[SCORE] >= 0.5 for document in documents)


def _lines(path: Path) -> list[bytes]:
    from whimbrel.data.reading.files import open_bytes

    with open_bytes(str(path)) as stream:
        return list(stream)

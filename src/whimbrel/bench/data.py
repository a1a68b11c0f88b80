"""How fast the quality classifier scores a corpus, everything included, beside datatrove's fastText filter.

    python -m whimbrel.bench.data CORPUS.jsonl --classifier MODEL.bin --tokenizer tokenizer.json [--documents 2000] [--ray]

Every run reads JSON lines, normalises, tokenises with the same BPE, scores and writes JSON lines, in fresh processes; models
are loaded before the clock starts. Tokens are the BPE's. The peer gets our normalisation and, in its faster setting, our table
of decoded ids: a step before its filter, as its users would write it. Rates per core are tokens by processor time, of threads
and children too; wall time is beside them. Runs alternate and the best of ``--repeats`` counts. What a further worker costs in
memory is its private memory, from /proc.
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from whimbrel.eval.provenance import provenance

FILES = 8


def main() -> None:
    """Measure, print one JSON object."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="whimbrel-bench-") as name:
        folder = Path(name)
        _parts(Path(arguments.corpus), folder / "in", arguments.documents)
        common = {"folder": str(folder), "model": arguments.classifier, "tokenizer": arguments.tokenizer}
        runs: list[dict[str, Any]] = [
            {"what": "whimbrel", "workers": 1},
            {"what": "whimbrel", "workers": 2},
            {"what": "datatrove", "decode": False},
            {"what": "datatrove", "decode": True},
        ]
        results: dict[str, dict[str, Any]] = {}
        for repeat in range(arguments.repeats):
            for options in runs:
                key = " ".join(str(value) for value in options.values())
                measured = _apart({**options, **common, "repeat": repeat})
                if key not in results or measured["tokens_per_second"] > results[key]["tokens_per_second"]:
                    results[key] = measured
        if arguments.ray:
            results["ray 2"] = _apart({"what": "ray", "workers": 2, **common, "repeat": 0})
        print(json.dumps({**_summary(results), "runs": results, "provenance": provenance()}, indent=1))


def _summary(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    one, two = results["whimbrel 1"], results["whimbrel 2"]
    released = results["datatrove True"]
    difference = np.abs(np.array(one["scores"]) - np.array(released["scores"])).max()
    for result in results.values():
        result.pop("scores", None)
    own, rate = one["tokens_per_cpu_second"], "tokens_per_cpu_second"
    return {
        "tokens_per_second_per_core": own,
        "times_datatrove": round(own / max(results["datatrove False"][rate], released[rate]), 2),
        "times_datatrove_with_released_decoding": round(own / released[rate], 2),
        "two_workers": round(two["tokens_per_second"] / one["tokens_per_second"], 3),
        "private_megabytes_per_worker": two["private_megabytes"],
        "largest_difference_of_scores": float(difference),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m whimbrel.bench.data", description=__doc__.splitlines()[0])
    parser.add_argument("corpus", help="JSON lines with a column text")
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--documents", type=int, default=2000, help="of the corpus, from its beginning")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--ray", action="store_true", help="also two workers of a local Ray")
    return parser.parse_args()


def _parts(corpus: Path, folder: Path, documents: int) -> None:
    """The corpus in ``FILES`` files."""
    folder.mkdir()
    with corpus.open("rb") as file:
        lines = [line for line, _ in zip(file, range(documents), strict=False)]
    for part in range(FILES):
        (folder / f"{part}.jsonl").write_bytes(b"".join(lines[part::FILES]))


def _apart(options: dict[str, Any]) -> dict[str, Any]:
    """Run in a process of its own, so that no cache is warm."""
    command = [sys.executable, "-c", "import sys, whimbrel.bench.data as d; d._child(sys.argv[1])", json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{options['what']} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _child(text: str) -> None:
    options = json.loads(text)
    made = {"whimbrel": _whimbrel, "datatrove": _datatrove, "ray": _ray}[options["what"]](options)
    print(json.dumps(made))


def _whimbrel(options: dict[str, Any]) -> dict[str, Any]:
    from whimbrel.data.filters.quality import Quality
    from whimbrel.data.running.local import LocalRunner
    from whimbrel.data.running.run import run
    from whimbrel.data.scoring.classifier import QualityClassifier

    began = time.perf_counter()
    filters = (Quality(QualityClassifier(options["model"], options["tokenizer"]), None),)
    loaded, clock = time.perf_counter(), _Clock()
    plan = _plan(options, filters)
    with _PrivateMemory() as memory:
        tally = run(plan, LocalRunner(options["workers"]))
    return {**clock.rate(tally.tokens), "load_seconds": loaded - began,
            "private_megabytes": memory.peak, "scores": _scores(plan.output)}  # fmt: skip


def _plan(options: dict[str, Any], filters: tuple[Any, ...]) -> Any:
    from whimbrel.data.reading.files import find
    from whimbrel.data.running.plan import Plan

    output = Path(options["folder"]) / f"{options['what']}-{options.get('workers')}-{options['repeat']}"
    inputs = tuple(find([options["folder"] + "/in"]))
    return Plan(inputs=inputs, output=output, filters=filters, format="jsonl")


def _scores(folder: Path) -> list[float]:
    from whimbrel.data.filters.quality import SCORE

    return [json.loads(line)[SCORE] for path in sorted(folder.glob("*.jsonl")) for line in path.open("rb")]


def _ray(options: dict[str, Any]) -> dict[str, Any]:
    """The whole command, since actors load the model inside it; local beside it in the same way."""
    import importlib

    runners = (
        importlib.import_module("whimbrel.data.running.ray"),
        importlib.import_module("whimbrel.data.running.local"),
    )
    from whimbrel.data.filters.quality import Quality
    from whimbrel.data.running.run import run
    from whimbrel.data.scoring.classifier import QualityClassifier

    filters = (Quality(QualityClassifier(options["model"], options["tokenizer"]), None),)
    ray = runners[0].RayRunner(options["workers"])
    clock = _Clock()
    tally = run(_plan(options, filters), ray)
    return clock.rate(tally.tokens)


def _datatrove(options: dict[str, Any]) -> dict[str, Any]:
    """Its own reader, filter and writer, with the released preprocessing as a step between."""
    from datatrove.pipeline.filters import FastTextClassifierFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    from whimbrel.data.scoring.pieces import Pieces

    pieces = Pieces.open(options["tokenizer"])
    FastTextClassifierFilter._requires_dependencies = []  # it looks for a distribution called fasttext, not for the module
    judge = FastTextClassifierFilter(options["model"], keep_labels=("pos", -1.0))
    judge.model.predict("warm")
    seen: dict[str, Any] = {"tokens": 0, "scores": []}
    output = f"{options['folder']}/datatrove-{options['decode']}-{options['repeat']}"
    clock = _Clock()
    stream: Any = JsonlReader(options["folder"] + "/in", doc_progress=False)(None, 0, 1)
    stream = judge(_prepare(stream, pieces, options["decode"], seen), 0, 1)
    for _ in JsonlWriter(output, compression=None)(_note(stream, seen), 0, 1):
        pass
    return {**clock.rate(seen["tokens"]), "scores": seen["scores"]}


def _prepare(stream: Iterator[Any], pieces: Any, decode: bool, seen: dict[str, Any]) -> Iterator[Any]:
    from whimbrel.data.scoring.normalise import line, normalise

    tokenizer, strings = pieces._tokenizer, pieces.strings
    for document in stream:
        ids = tokenizer.encode(normalise(document.text), add_special_tokens=False).ids
        seen["tokens"] += len(ids)
        words = (tokenizer.decode([index]) for index in ids) if decode else map(strings.__getitem__, ids)
        document.metadata["original"] = document.text
        document.text = line(" ".join(words))
        yield document


def _note(stream: Iterator[Any], seen: dict[str, Any]) -> Iterator[Any]:
    for document in stream:
        positive = min(document.metadata["__label__pos"], 1.0)
        seen["scores"].append(positive if positive >= 0.5 else 1 - min(document.metadata["__label__neg"], 1.0))
        document.text = document.metadata.pop("original")
        yield document


class _Clock:
    """Wall time and processor time, of this process and the children that it waited for."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), self._used()

    def rate(self, tokens: int) -> dict[str, Any]:
        """Tokens per second by either clock; on a machine that others use, the second says what a free core would do."""
        wall, cpu = time.perf_counter() - self._wall, self._used() - self._cpu
        return {
            "tokens": tokens,
            "seconds": round(wall, 3),
            "cpu_seconds": round(cpu, 3),
            "tokens_per_second": round(tokens / wall),
            "tokens_per_cpu_second": round(tokens / cpu),
        }

    @staticmethod
    def _used() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class _PrivateMemory(threading.Thread):
    """The largest private memory of any child, in megabytes, looked at ten times a second; 0 without children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        while not self._done.wait(0.1):
            for child in multiprocessing.active_children():
                try:
                    text = Path(f"/proc/{child.pid}/smaps_rollup").read_text()
                except OSError:
                    continue
                kilobytes = sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))
                self.peak = max(self.peak, round(kilobytes / 1024, 1))


if __name__ == "__main__":
    main()

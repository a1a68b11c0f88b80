"""The miniature's report: each claim of the system beside what a run measured, and pictures of it."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from whimbrel.train.reporting import plot_loss

Results = Mapping[str, Mapping[str, Any]]


def write_report(folder: Path, parameters: int) -> Path:
    """``report.md``, ``losses.png`` and ``positions.png`` in the run's folder, of the stages that are there."""
    results = {path.stem: json.loads(path.read_text()) for path in (folder / "results").glob("*.json")}
    seconds = sum(result.get("stage_seconds", 0) for result in results.values())
    parts = [f"# The miniature: {parameters / 1e6:.1f} million parameters, {seconds / 60:.0f} minutes\n"]
    for needed, part in ((("stable", "cosine"), _schedules), (("long",), _long), (("mtp",), _mtp), (("sft",), _sft)):
        if all(name in results for name in needed):
            parts.append(part(results))
    if "stable" in results:
        plot_loss(folder / "losses.png", *(folder / name for name in ("stable", "cosine") if name in results))
    if "long" in results:
        _plot_positions(folder, results["long"])
    path = folder / "report.md"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _schedules(results: Results) -> str:
    stable, cosine = results["stable"], results["cosine"]
    apart = stable["held_out_loss"] / cosine["held_out_loss"] - 1
    rows = [("WSD, the last tenth decays", stable, 1), ("cosine of the same length", cosine, 1)]
    for step, run in results.get("decays", {}).items():
        if step.isdigit():
            rows.append((f"decay from the stable run, {step} steps", run, 10))
    return (
        f"""## One stable run, every length

Claim: a decay of 10% of the tokens ends within 1% of a cosine of the same length, and decays from one stable run give the
losses of shorter runs. Measured: WSD ends {apart:+.2%} from the cosine.

| run | tokens | tokens trained for it alone | held-out loss, nats per token |
|---|---|---|---|
"""
        + "".join(
            f"| {name} | {run['tokens']:,} | {run['tokens'] // shared:,} | {run['held_out_loss']:.4f} |\n"
            for name, run, shared in rows
        )
        + "\n![Training losses](losses.png)\n"
    )


def _long(results: Results) -> str:
    long, edges = results["long"], results["long"]["edges"]
    places = [f"{first}-{end}" for first, end in pairwise(edges)]
    dense, sparse = (long["losses"][f"trained {name}, read {name}"] for name in ("dense", "sparse"))
    return (
        f"""## Four times the context, a fraction of it read

Claim: a dense model goes on with InfLLM v2 and LongRoPE on documents of mixed lengths (1:1:1:1), and sparse attention then
costs no quality. Measured after {long["tokens"]:,} tokens of up to {edges[-1]:,}: beyond {edges[-2]:,} tokens, where a query reads at
most {long["read"]} of up to {edges[-1]:,} keys, the sparse model's loss is {sparse[-1] / dense[-1] - 1:+.2%} from the dense one's.

| model | {" | ".join(f"loss at {place}" for place in places)} |
|---|{"---|" * len(places)}
"""
        + "".join(
            f"| {name} | {' | '.join(f'{loss:.4f}' for loss in losses)} |\n" for name, losses in long["losses"].items()
        )
        + "\n![Loss by position](positions.png)\n"
    )


def _mtp(results: Results) -> str:
    mtp = results["mtp"]
    apart = mtp["mtp"]["held_out_loss"] / mtp["next"]["held_out_loss"] - 1
    return f"""## Multi-token prediction

Claim: a head that predicts the token after the next costs the trunk nothing (it is said to help larger ones), and drafts for
speculative decoding. Measured: the same decay with it ends {apart:+.2%} from the one without ({mtp["mtp"]["held_out_loss"]:.4f} and
{mtp["next"]["held_out_loss"]:.4f} nats; {mtp["mtp"]["seconds"]} and {mtp["next"]["seconds"]} s), and {mtp["accepted"]:.0%} of {mtp["drafted"]:,} one-token drafts are what the trunk then chooses.
"""


def _sft(results: Results) -> str:
    sft = results["sft"]
    rows = []
    for state in ("before", "after"):
        for kind in ("dense", "sparse"):
            found = sft[f"{state}_{kind}"]
            shares = " | ".join(f"{found[name]:.0%}" for name in ("short", "long"))
            rows.append(f"| {state}, {kind} attention | {shares} |\n")
    return f"""## A supervised task

From which quarter of the speeches, by date, is a passage? Only the assistant's word is learned ({sft["steps"]} steps, {sft["tokens"]:,}
tokens), and passages are of speeches that were kept from this stage. Share of right words among all that the model could say; a
guess among the four is right in 25%. Claim: an answer can rest on a long text of which a query reads a part.

| model | passages of 64 tokens | of {sft["long_tokens"]:,} |
|---|---|---|
{"".join(rows)}"""


def _plot_positions(folder: Path, long: Mapping[str, Any]) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    edges = long["edges"]
    places = [f"{first} to {end}" for first, end in pairwise(edges)]
    for name, losses in long["losses"].items():
        axes.plot(places, losses, marker="o", label=name)
    axes.set(xlabel="position", ylabel="held-out loss, nats per token")
    axes.legend(fontsize=8)
    figure.savefig(folder / "positions.png", dpi=120)

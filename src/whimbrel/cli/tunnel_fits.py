"""``whimbrel tunnel fit``, ``ladder``, ``steplaw`` and ``items``: laws from points that are there, and items to measure with."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli import tunnel as shared
from whimbrel.cli.shell import verb
from whimbrel.errors import UsageError

if TYPE_CHECKING:
    from whimbrel.tunnel.items import Writer
    from whimbrel.tunnel.ladder import LossPoint
    from whimbrel.tunnel.score_points import Point
    from whimbrel.tunnel.sigmoid import SigmoidFit


@verb(group=shared.group)
def fit(
    points: Annotated[
        Path,
        typer.Argument(
            metavar="POINTS",
            help="Folder of the OLMo ladder, or a .csv/.jsonl with task, model, run, step, loss, score.",
        ),
    ],
    hold_out: shared.HoldOut = "7B,13B",
    chance: Annotated[
        float | None, typer.Option("--chance", help="Score of guessing.  [default: of the OLMo tasks; else 0]")
    ] = None,
    skip: Annotated[float, typer.Option("--skip", help="Share of each run's first checkpoints to leave out.")] = 0.1,
    picture: shared.Picture = None,
    json: options.Json = False,
) -> None:
    """From loss to task score: a sigmoid for each task.

    What is held out is predicted from its loss, with a 90% band of the curve. A task of which no score leaves chance is
    refused.
    """
    from whimbrel.tunnel.olmo import TASKS, is_olmo, olmo_points
    from whimbrel.tunnel.picture import write_sigmoids
    from whimbrel.tunnel.score_points import last, read_points, settled
    from whimbrel.tunnel.sigmoid import fit_sigmoid

    everything = olmo_points(points) if is_olmo(points) else read_points(points)
    out = shared.names(hold_out)
    fitted = settled([point for point in everything if point.model not in out], skip)
    held = last([point for point in everything if point.model in out])
    fits: dict[str, SigmoidFit] = {}
    reports: list[dict[str, Any]] = []
    for task in dict.fromkeys(point.task for point in everything):
        guess = chance if chance is not None else TASKS[task][1] if task in TASKS else 0.0
        try:
            found = fits[task] = fit_sigmoid([point for point in fitted if point.task == task], guess)
        except UsageError as error:
            reports.append({"task": task, "refused": str(error)})
            continue
        predictions = [_predicted(found, point) for point in held if point.task == task]
        about = {"error": found.error, "points": found.points, "runs": found.runs}
        reports.append({"task": task, "curve": asdict(found.curve), **about, "held_out": predictions})
    if json:
        terminal.result_json({"tasks": reports})
    else:
        _show_fits(reports)
    if fits:
        shared.drawn(picture, lambda path: write_sigmoids(fits, fitted, held, path))


def _predicted(found: Any, point: "Point") -> dict[str, Any]:
    score = float(found.curve(point.loss))
    low, high = (float(bound) for bound in found.band(point.loss))
    relative = score / point.score - 1 if point.score else None
    about = {"model": point.model, "run": point.run, "loss": point.loss, "score": point.score}
    return {**about, "predicted": score, "band": [low, high], "relative_error": relative}


def _show_fits(reports: list[dict[str, Any]]) -> None:
    rows = [
        (
            report["task"],
            held["model"],
            f"{held['score']:.3f}",
            f"{held['predicted']:.3f}",
            f"{held['band'][0]:.3f} to {held['band'][1]:.3f}",
            "-" if held["relative_error"] is None else f"{held['relative_error']:+.1%}",
        )
        for report in reports
        for held in report.get("held_out", [])
    ]
    terminal.table(("task", "held out", "score", "predicted", "90% band", "error"), rows)
    for report in reports:
        if "refused" in report:
            terminal.result(f"{report['task']}: {report['refused']}")
        else:
            c = report["curve"]
            terminal.result(
                f"{report['task']}: S = {c['c']:.3f} / (1 + exp({-c['gamma']:.3f} (L - {c['l']:.3f}))) + {c['d']:.3f}; "
                f"error {report['error']:.4f} on {report['points']} points of {report['runs']} runs"
            )


@verb(group=shared.group)
def ladder(
    points: Annotated[
        Path, typer.Argument(metavar="POINTS", help="A sweep's ledger, or the folder of the OLMo ladder.")
    ],
    hold_out: Annotated[
        str | None,
        typer.Option("--hold-out", metavar="MODEL,...", help="Fitted without, then predicted.  [default: the largest]"),
    ] = None,
    irreducible: Annotated[
        bool, typer.Option("--irreducible/--no-irreducible", help="With a loss that no model gets below.")
    ] = True,
    picture: shared.Picture = None,
    json: options.Json = False,
) -> None:
    """The loss law L(N, D) of a ladder of runs."""
    from whimbrel.tunnel.ladder import fit_ladder
    from whimbrel.tunnel.picture import write_ladder

    everything = _losses(points)
    largest = max(everything, key=lambda point: point.parameters).model
    out = {largest} if hold_out is None else shared.names(hold_out)
    fitted = [point for point in everything if point.model not in out]
    held = [point for point in everything if point.model in out]
    found = fit_ladder(fitted, irreducible=irreducible)
    rows = []
    for point in held:
        low, high = found.band(point.parameters, point.tokens)
        predicted = float(found.law(point.parameters, point.tokens))
        rows.append({**asdict(point), "predicted": predicted, "band": [low, high], "inside": low <= point.loss <= high})
    if json:
        terminal.result_json({"law": asdict(found.law), "runs": len(fitted), "held_out": rows})
    else:
        law = found.law
        terminal.result(
            f"L = {law.a:.4g} N^-{law.alpha:.3f} + {law.b:.4g} D^-{law.beta:.3f} + {law.e:.4f}, from {len(fitted)} runs"
        )
        terminal.table(
            ("held out", "tokens", "loss", "predicted", "90% band", "error"),
            [
                (
                    row["model"],
                    f"{row['tokens']:.3g}",
                    f"{row['loss']:.4f}",
                    f"{row['predicted']:.4f}",
                    f"{row['band'][0]:.4f} to {row['band'][1]:.4f}{'' if row['inside'] else ' (outside)'}",
                    f"{row['predicted'] / row['loss'] - 1:+.2%}",
                )
                for row in rows
            ],
        )
    shared.drawn(picture, lambda path: write_ladder(found, fitted, held, path))


def _losses(path: Path) -> "list[LossPoint]":
    """Of a ledger, the best run of each size and number of tokens, over rates and seeds: muP's where there are any."""
    from whimbrel.tunnel.ladder import LossPoint
    from whimbrel.tunnel.ledger import read_ledger
    from whimbrel.tunnel.olmo import is_olmo, olmo_losses

    if is_olmo(path):
        return olmo_losses(path)
    _, runs = read_ledger(path)
    kinds = {trial.parametrization for trial, _ in runs}
    kind = "mup" if "mup" in kinds else next(iter(kinds), "mup")
    best: dict[tuple[int, int], LossPoint] = {}
    for trial, outcome in runs:
        if trial.parametrization == kind and outcome.loss is not None:
            key = (outcome.parameters, outcome.tokens)
            if key not in best or outcome.loss < best[key].loss:
                best[key] = LossPoint(
                    f"w{trial.width}", float(outcome.parameters), float(outcome.tokens), outcome.loss, trial.key
                )
    if not best:
        raise UsageError(f"{path} has no finished runs; `whimbrel tunnel sweep` makes them")
    return list(best.values())


@verb(group=shared.group)
def steplaw(
    parameters: Annotated[
        Any, typer.Option("--parameters", parser=options.quantity, metavar="N", help="Without embeddings: 360M.")
    ],
    tokens: Annotated[
        Any, typer.Option("--tokens", parser=options.quantity, metavar="N", help="Of the training: 20G.")
    ],
    sequence: Annotated[int, typer.Option("--sequence", help="Tokens of a sequence.")] = 4096,
    json: options.Json = False,
) -> None:
    """The learning rate and batch that StepLaw predicts."""
    from whimbrel.tunnel.steplaw import predict

    found = predict(parameters, tokens, sequence=sequence)
    if json:
        terminal.result_json(asdict(found))
        return
    terminal.result(
        f"learning rate {found.rate:.3g}; batch {found.batch_tokens:,.0f} tokens, "
        f"{found.sequences} sequences of {sequence}"
    )


@verb(group=shared.group)
def items(
    questions: Annotated[
        Path, typer.Argument(metavar="QUESTIONS.jsonl", help="Lines with question and answer (options, reasoning).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="ITEMS.jsonl", help="Items are added to it.")],
    writer: Annotated[str | None, typer.Option("--writer", help="Model here that writes lacking reasoning.")] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="OpenAI-compatible address that writes it instead.")
    ] = None,
    endpoint_model: Annotated[str, typer.Option("--endpoint-model", help="Its name there.")] = "default",
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="Holds the key that the address wants.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first questions, this many.")] = None,
    json: options.Json = False,
) -> None:
    """Make conditional-loss items of questions with answers.

    `whimbrel eval conditional` scores models on them. The same command goes on where it was stopped.
    """
    from whimbrel.tunnel.items import read_questions, write_items

    if writer and endpoint:
        raise UsageError("--writer and --endpoint both write the reasoning; choose one")
    key = key_file.read_text(encoding="utf-8").strip() if key_file is not None else None
    asked = read_questions(questions)[:limit]
    with terminal.progress("items") as show:
        counts = write_items(
            asked,
            output,
            writer=_writer(writer, endpoint, endpoint_model, key),
            progress=lambda done, total: show("writing", done, total),
        )
    if json:
        terminal.result_json({"counts": dict(counts)})
        return
    terminal.result(f"{output}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))


def _writer(model: str | None, endpoint: str | None, name: str, key: str | None) -> "Writer | None":
    if endpoint is not None:
        from whimbrel.tunnel.items import Endpoint

        return Endpoint(endpoint, name, key=key)
    if model is None:
        return None
    from whimbrel.cli.answer import open_model

    llm = open_model(model=model)
    return lambda request: str(llm.chat(request, max_tokens=512).text)

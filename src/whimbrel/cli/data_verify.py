"""``whimbrel data verify`` and ``whimbrel data ultraclean``: which data makes a better model, proven by annealing."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whimbrel.cli import data, options, terminal
from whimbrel.cli.shell import verb
from whimbrel.errors import InvalidParameter

if TYPE_CHECKING:
    from whimbrel.data.proof.verify import Verification


@verb("verify", group=data.group)
def verify_candidates(
    candidates: Annotated[list[str], typer.Argument(metavar="NAME=SHARDS...", help="Candidate sets, as token shards.")],
    base: Annotated[Path, typer.Option("--base", help="A checkpoint of the trainer, almost trained.")],
    default: Annotated[list[str], typer.Option("--default", help="Shards of the default mix.")],
    output: data.Output,
    held_out: Annotated[
        list[str] | None, typer.Option("--held-out", help="NAME=SHARDS; each document is an item.")
    ] = None,
    items: Annotated[
        list[str] | None, typer.Option("--items", help="NAME=FILE.jsonl, as tunnel items writes them.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option("--tokenizer", help="The model's, for --items.")] = None,
    tokens: Annotated[Any, typer.Option("--tokens", parser=options.quantity, help="Of one annealing.")] = "1m",
    seeds: Annotated[int, typer.Option("--seeds", help="Runs of each candidate.", min=1)] = 3,
    share: Annotated[float, typer.Option("--share", help="Of the candidate in its mix.")] = 0.3,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Also train every arm from scratch, to compare.")
    ] = False,
    scratch_tokens: Annotated[
        Any, typer.Option("--scratch-tokens", parser=options.quantity, help="Of those; 0: ten times --tokens.")
    ] = "0",
    sequence: Annotated[int, typer.Option("--sequence")] = 512,
    rows: Annotated[int, typer.Option("--rows", help="Of a batch.")] = 8,
    peak_share: Annotated[
        float, typer.Option("--peak-share", help="Of the base's learning rate, where an annealing begins.")
    ] = 0.1,
    json: options.Json = False,
) -> None:
    """Rank data sets by annealing a model on each of them.

    Each run goes on from an almost-trained model, on 30% candidate and 70% default mix; the decision is statistical.
    """
    from whimbrel.data.proof.anneal import Annealer
    from whimbrel.data.proof.verify import verify

    shards, texts = _named(held_out or []), _items(items or [], tokenizer, default, output, sequence)
    if both := sorted(shards.keys() & texts.keys()):
        raise InvalidParameter(f"{both[0]} names shards and items; choose another name for one of them")
    if not shards | texts:
        raise InvalidParameter("nothing measures the candidates: give --held-out or --items")
    annealer = Annealer(
        base=str(base),
        default=tuple(_shards(default)),
        held_out=shards | texts,
        tokens=tokens,
        scratch_tokens=scratch_tokens,
        sequence=sequence,
        rows=rows,
        peak_share=peak_share,
    )
    sets = _named(candidates)
    results = []
    for scratch in (False, True)[: 1 + from_scratch]:
        terminal.note(f"{(len(sets) + 1) * seeds} runs {'from scratch' if scratch else 'of annealing'}")
        results.append(
            verify(
                sets,
                annealer,
                output,
                seeds=range(seeds),
                share=share,
                from_scratch=scratch,
                on_run=lambda arm, outcome: terminal.note(f"{arm.name}, seed {arm.seed}: {outcome.seconds:.0f} s"),
            )
        )
    if json:
        terminal.result_json({"verifications": [result.json() for result in results]})
        return
    for result in results:
        _tell(result)
    base_tokens, cost = annealer.base_tokens(), results[0].tokens_per_run
    terminal.result(
        f"a run is {cost:,} tokens; the base took about {base_tokens:,} from scratch, {base_tokens / cost:.1f} times as many"
    )
    if len(results) == 2:
        same = results[0].ranking == results[1].ranking
        ratio = results[0].tokens_per_run / results[1].tokens_per_run
        terminal.result(f"the two rankings are {'the same' if same else 'different'}, at {ratio:.3f} of the tokens")


def _items(
    values: list[str], tokenizer: Path | None, default: list[str], output: Path, sequence: int
) -> dict[str, tuple[str, ...]]:
    """Items as shards in the output folder, by name."""
    from whimbrel.data.proof.items import write_items
    from whimbrel.formats.shards import ShardReader

    found: dict[str, tuple[str, ...]] = {}
    for value in values:
        name, file = _name_of(value, "FILE.jsonl")
        if tokenizer is None:
            raise InvalidParameter("--items are texts: give the model's tokenizer with --tokenizer")
        like = ShardReader(_shards(default)[0]).header
        shard, left_out = write_items(file, tokenizer, output, like=like, longest=sequence)
        if left_out:
            terminal.note(f"{name}: {len(left_out)} items are longer than {sequence} tokens and left out")
        found[name] = (str(shard),)
    return found


def _tell(result: "Verification") -> None:
    what = "from scratch" if result.from_scratch else "annealing"
    rows = []
    for name in result.ranking:
        found = result.decisions[name]
        rows.append((name, f"{found.gain.mean:+.4f}", f"{found.gain.error:.4f}", found.verdict))
    terminal.table((what, "gain, nats/token", "standard error", "decision"), rows)
    seconds = f"{result.seconds:,.0f} s"
    terminal.note(f"{result.tokens_per_run:,} tokens a run, {result.tokens:,} in all, {seconds}")


def _named(values: list[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for value in values:
        name, pattern = _name_of(value, "SHARDS")
        found[name] = (*found.get(name, ()), *_shards([pattern]))
    return found


def _name_of(value: str, what: str) -> tuple[str, str]:
    name, _, rest = value.partition("=")
    if not name or not rest:
        raise InvalidParameter(f"{value!r} has no name; write NAME={what}, as clean=out/clean")
    return name, rest


def _shards(patterns: list[str]) -> list[str]:
    """Files, or all shards of folders."""
    found = []
    for pattern in patterns:
        path = Path(pattern)
        files = sorted(path.rglob("*.shard")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise InvalidParameter(f"no token shards at {pattern}; `whimbrel data filter --format shards` makes them")
        found += [str(file) for file in files]
    return found


@verb("ultraclean", group=data.group)
def run_ultraclean(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml")],
    output: data.Output,
    workers: data.Workers = None,
    json: options.Json = False,
) -> None:
    """Run the loop of a recipe: verify, train, filter.

    Seed sets are verified, a classifier is trained, a filtered sample verified, and again; then everything is filtered.
    """
    from dataclasses import asdict

    from whimbrel.data.proof.anneal import Annealer
    from whimbrel.data.proof.loop import ultraclean
    from whimbrel.data.proof.recipe import read_recipe
    from whimbrel.data.running.local import LocalRunner

    read = read_recipe(recipe)
    annealer = Annealer(
        base=read.base,
        default=tuple(_shards(read.default)),
        held_out={name: tuple(_shards(found)) for name, found in read.held_out_sets.items()},
        tokens=read.tokens,
        sequence=read.sequence,
        rows=read.rows,
        peak_share=read.peak_share,
    )
    report = ultraclean(
        read, annealer, LocalRunner(workers), output, on_event=terminal.note,
        on_run=lambda arm, outcome: terminal.note(f"{arm.name}, seed {arm.seed}: {outcome.seconds:.0f} s"),
    )  # fmt: skip
    if json:
        terminal.result_json(asdict(report))
        return
    terminal.result((output / "report.md").read_text())

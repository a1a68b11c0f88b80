"""UltraClean on real text: three sets of different quality, ranked by annealing the miniature and by training it from scratch.

    python recipes/ultraclean_text.py /tmp/text --web-pages ../shared/data/web_pages
    python recipes/miniature_cpu.py /tmp/miniature --stages data,stable
    python recipes/ultraclean_verification.py /tmp/verification --text /tmp/text --miniature /tmp/miniature

clean: documentation and article bodies, equally many passages; noisy: mails without headers and whole web pages with their menus,
as many; mixed: half of each.
The default mix is what the miniature was trained on, speeches. What is measured: the loss on documentation, article bodies and
speeches that no run saw. The base is the miniature's last checkpoint before its decay. ``FOLDER/report.md`` is the result; finished
runs are kept. ``--seeds`` lets several processes share the work: each trains its seeds, the last call reports on all.
"""

import argparse
import json
import random
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tokenizers

from whimbrel.data.document import Document, Drop
from whimbrel.data.filters.decontaminate import Decontaminate
from whimbrel.data.proof.anneal import Annealer
from whimbrel.data.proof.arm import Arm, Outcome
from whimbrel.data.proof.verify import OnRun, Verification, verify
from whimbrel.formats.shards import ShardReader, ShardWriter
from whimbrel.tunnel.corpus import END

HELD_OUT = 200
"""passages of each kind that are kept for measuring"""
TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-"})
MAILS = ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="folder of ultraclean_text.py")
    parser.add_argument("--miniature", type=Path, required=True, help="folder of miniature_cpu.py")
    parser.add_argument("--tokens", type=int, default=60_000, help="of one annealing")
    parser.add_argument("--scratch-tokens", type=int, default=600_000, help="of one run from scratch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    corpus = options.miniature / "corpus"
    shards = write_sets(options.text, corpus, options.folder / "shards")
    annealer = Annealer(
        base=str(max((options.miniature / "stable").glob("step-*.pt"))),
        default=(str(corpus / "train.shard"),),
        held_out={name: (str(shards / f"held-{name}.shard"),) for name in ("documentation", "articles")}
        | {"speeches": (str(corpus / "held_out.shard"),)},
        tokens=options.tokens,
        scratch_tokens=options.scratch_tokens,
        items=100,
        threads=options.threads,
    )
    candidates = {name: (str(shards / f"{name}.shard"),) for name in ("clean", "mixed", "noisy")}

    runs = options.folder / "runs"

    def proof(seeds: Sequence[int], scratch: bool, on_run: OnRun = lambda arm, outcome: None) -> Verification:
        return verify(candidates, annealer, runs, seeds=seeds, from_scratch=scratch, on_run=on_run)

    annealed, scratch = (proof(options.seeds, way, announce) for way in (False, True))
    by_seed = {seed: (proof([seed], False).ranking, proof([seed], True).ranking) for seed in options.seeds}
    path = options.folder / "report.md"
    path.write_text(report(annealed, scratch, candidates, by_seed), encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


def announce(arm: Arm, outcome: Outcome) -> None:
    """A line for each run."""
    scores = ", ".join(f"{name} {-values.mean():.4f}" for name, values in outcome.scores.items())
    how = "from scratch" if arm.from_scratch else "annealed"
    print(f"{arm.name}, seed {arm.seed}, {how}: {scores} ({outcome.seconds:.0f} s)", flush=True)


def write_sets(text: Path, corpus: Path, folder: Path) -> Path:
    """clean, mixed and noisy as shards of nearly equal size in the miniature's vocabulary, and what is held out."""
    if (folder / "noisy.shard").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    sources = {name: _read(text / f"{name}.jsonl") for name in ("clean", "noisy")}
    documentation = _shuffled(rng, sources["clean"], "python-doc", "postgresql-doc")
    articles = _shuffled(rng, sources["clean"], "web-body")
    held = {"documentation": documentation[:HELD_OUT], "articles": articles[: len(articles) // 2]}
    # Whole web pages hold the articles' text: without this step they looked better than any clean set.
    judge = Decontaminate([text for texts in held.values() for text in texts])
    parts = [
        _without(judge, passages, name)
        for name, passages in (
            ("documentation", documentation[HELD_OUT:]),
            ("articles", articles[len(articles) // 2 :]),
            ("mails", _shuffled(rng, sources["noisy"], *MAILS)),
            ("pages", _shuffled(rng, sources["noisy"], "web-page")),
        )
    ]
    # Equally many of each: where clean was nearly all documentation, articles were learned best from noisy pages.
    count = min(map(len, parts))
    clean, noisy = (first[:count] + second[:count] for first, second in (parts[:2], parts[2:]))
    mixed = [text for part in parts for text in part[: count // 2]]
    for texts in (clean, noisy, mixed):
        rng.shuffle(texts)
    encode = tokenizers.Tokenizer.from_file(str(corpus / "tokenizer.json"))
    vocabulary = ShardReader(corpus / "train.shard").header.vocabulary
    end = encode.token_to_id(END)
    assert end is not None
    sets = {f"held-{name}": texts for name, texts in held.items()} | {"clean": clean, "mixed": mixed, "noisy": noisy}
    for name, texts in sets.items():
        with ShardWriter(folder / f"{name}.shard", vocab_size=encode.get_vocab_size(), vocabulary=vocabulary) as writer:
            for encoding in encode.encode_batch(texts):
                writer.add([*encoding.ids, end])
            writer.close()
    return folder


def report(
    annealed: Verification,
    scratch: Verification,
    candidates: Iterable[str],
    by_seed: Mapping[int, tuple[list[str], list[str]]],
) -> str:
    """Both rankings side by side, seed by seed."""
    lines = ["# Three sets of real text, verified", ""]
    ratio = annealed.tokens_per_run / scratch.tokens_per_run
    same = "the same" if annealed.ranking == scratch.ranking else "different"
    costs = f"""Annealing: {annealed.tokens_per_run:,} tokens a run, {annealed.seconds:,.0f} s for all; from scratch:
{scratch.tokens_per_run:,} tokens a run, {scratch.seconds:,.0f} s. {ratio:.3f} of the tokens; the rankings are {same}."""
    lines += [costs, "", "| ranking | annealed | from scratch |", "|---|---|---|"]
    for seed, rankings in by_seed.items():
        lines.append(f"| seed {seed} | {' > '.join(rankings[0])} | {' > '.join(rankings[1])} |")
    lines += ["", "Gain over the default mix in nats per token (standard error), mean of the benchmarks:", ""]
    lines += ["| set | annealed | decision | from scratch | decision |", "|---|---|---|---|---|"]
    for name in candidates:
        one, other = annealed.decisions[name], scratch.decisions[name]
        lines.append(
            f"| {name} | {one.gain.mean:+.4f} ({one.gain.error:.4f}) | {one.verdict} "
            f"| {other.gain.mean:+.4f} ({other.gain.error:.4f}) | {other.verdict} |"
        )
    lines += ["", "By benchmark:", "", "| set | benchmark | annealed | from scratch |", "|---|---|---|---|"]
    for name in candidates:
        for benchmark, gain in annealed.decisions[name].benchmarks.items():
            other_gain = scratch.decisions[name].benchmarks[benchmark]
            lines.append(f"| {name} | {benchmark} | {gain.mean:+.4f} | {other_gain.mean:+.4f} |")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8") as file:
        return [(line["source"], _plain(line["text"])) for line in map(json.loads, file)]


def _plain(text: str) -> str:
    """ASCII: the speeches hold nothing else, so that the bytes of a curly quote, three tokens each, decided every comparison."""
    folded = unicodedata.normalize("NFKD", text.translate(TYPOGRAPHY))
    return folded.encode("ascii", "ignore").decode()


def _without(judge: Decontaminate, texts: Sequence[str], name: str) -> list[str]:
    kept = [text for text in texts if not isinstance(judge(Document(text=text, id="")), Drop)]
    print(
        f"{name}: {len(texts) - len(kept)} of {len(texts)} passages share 12 words with what is held out, and are left out"
    )
    return kept


def _shuffled(rng: random.Random, passages: Sequence[tuple[str, str]], *sources: str) -> list[str]:
    chosen = [text for source, text in passages if source in sources]
    rng.shuffle(chosen)
    return chosen


if __name__ == "__main__":
    main()

"""UltraClean on real text: three sets of different quality, ranked by annealing a small model and by training it from scratch.

    python recipes/ultraclean_text.py /tmp/text --web-pages ../shared/data/web_pages
    python recipes/ultraclean_verification.py /tmp/verification --text /tmp/text

clean: documentation, article bodies and speeches; noisy: mails without headers and whole web pages with their menus; mixed: half of
each. The default mix is general, of other passages of all these kinds (``ultraclean_sets.py``). What is measured: the loss on
documentation, articles and speeches that no run saw. The base is the CPU recipe's model (5 million parameters), trained on the
default mix; annealing starts at its last checkpoint before the decay. ``FOLDER/report.md`` is the result; finished runs are kept.
Once ``FOLDER/base`` is trained, several processes may share the work by ``--seeds``; the last call reports on all.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tokenizers
import torch
from miniature import PEAK, Miniature, Size
from ultraclean_sets import divide

from whimbrel import hardware
from whimbrel.data.proof.anneal import Annealer
from whimbrel.data.proof.arm import Arm, Outcome
from whimbrel.data.proof.decision import Gain
from whimbrel.data.proof.verify import OnRun, Verification, verify
from whimbrel.formats.shards import ShardReader, ShardWriter
from whimbrel.tunnel.corpus import END

ITEMS = 60
"""passages of each kind that are scored"""
PEAK_SHARE = 0.3
"""of the base's rate, where annealing begins: of 0.1, 0.3 and 1 the one with the lowest losses on the default mix, seed 0"""
SIZE = Size(rate=PEAK, decay_kind="exponential", decay_floor=0.05)
"""MiniCPM's rate; the miniature has a lower one since, with which nothing here was run"""
Shards = dict[str, tuple[str, ...]]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="folder of ultraclean_text.py")
    parser.add_argument("--tokens", type=int, default=100_000, help="of one annealing")
    parser.add_argument("--scratch-tokens", type=int, default=1_000_000, help="of one run from scratch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=hardware.threads(), help="fewer where others use the cores")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = make_base(options.text, options.folder)
    candidates, held_out = make_shards(options.text, base.corpus, options.folder / "shards")
    annealer = make_annealer(base, held_out, options.tokens, options.scratch_tokens, options.threads)

    def proof(seeds: Sequence[int], scratch: bool, on_run: OnRun = lambda arm, outcome: None) -> Verification:
        return verify(candidates, annealer, options.folder / "runs", seeds=seeds, from_scratch=scratch, on_run=on_run)

    annealed, scratch = (proof(options.seeds, way, announce) for way in (False, True))
    by_seed = {seed: (proof([seed], False), proof([seed], True)) for seed in options.seeds}
    path = options.folder / "report.md"
    path.write_text(report(annealed, scratch, candidates, by_seed), encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


def make_base(text: Path, folder: Path) -> Miniature:
    """The CPU recipe's model on the default mix, its stable run alone; kept once it is there."""
    default = folder / "default.jsonl"
    if not default.exists():
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": passage}, ensure_ascii=False) + "\n" for passage in divide(text).default]
        default.write_text("".join(lines), encoding="utf-8")
    base = Miniature(folder / "base", SIZE, text=default)
    base.run(["data", "stable"])
    return base


def make_shards(text: Path, corpus: Path, folder: Path) -> tuple[Shards, Shards]:
    """Candidates and what is held out, in the base's vocabulary: name -> shards."""
    sets = divide(text)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, number in sets.left_out.items():
        print(f"{kind}: {number} passages share 12 words with what is held out, and are left out")
    encode = tokenizers.Tokenizer.from_file(str(corpus / "tokenizer.json"))
    vocabulary = ShardReader(corpus / "train.shard").header.vocabulary
    end = encode.token_to_id(END)
    assert end is not None
    files: dict[str, Path] = {}
    for name, passages in (sets.candidates | {f"held-{kind}": texts for kind, texts in sets.held_out.items()}).items():
        files[name] = folder / f"{name}.shard"
        if files[name].exists():
            continue
        with ShardWriter(files[name], vocab_size=encode.get_vocab_size(), vocabulary=vocabulary) as writer:
            for encoding in encode.encode_batch(passages):
                writer.add([*encoding.ids, end])
            writer.close()
    held_out: Shards = {kind: (str(files[f"held-{kind}"]),) for kind in sets.held_out}
    return {name: (str(files[name]),) for name in sets.candidates}, held_out


def make_annealer(base: Miniature, held_out: Shards, tokens: int, scratch_tokens: int, threads: int) -> Annealer:
    """From the base's last step before its decay."""
    return Annealer(
        base=str(base.folder / "stable" / f"step-{base.size.steps - base.size.decay:08d}.pt"),
        default=(str(base.train_shard),),
        held_out=held_out,
        tokens=tokens,
        scratch_tokens=scratch_tokens,
        peak_share=PEAK_SHARE,
        items=ITEMS,
        threads=threads,
    )


def announce(arm: Arm, outcome: Outcome) -> None:
    """A line for each run."""
    scores = ", ".join(f"{name} {-values.mean():.4f}" for name, values in outcome.scores.items())
    how = "from scratch" if arm.from_scratch else "annealed"
    print(f"{arm.name}, seed {arm.seed}, {how}: {scores} ({outcome.seconds:.0f} s)", flush=True)


def report(
    annealed: Verification,
    scratch: Verification,
    candidates: Iterable[str],
    by_seed: Mapping[int, tuple[Verification, Verification]],
) -> str:
    """Both ways side by side: ranking by seed, gain by set and by benchmark."""
    ratio = annealed.tokens_per_run / scratch.tokens_per_run
    same = "the same" if annealed.ranking == scratch.ranking else "different"
    costs = f"""Annealing: {annealed.tokens_per_run:,} tokens a run, {annealed.seconds:,.0f} s for all; from scratch:
{scratch.tokens_per_run:,} tokens a run, {scratch.seconds:,.0f} s. {ratio:.3f} of the tokens; the rankings are {same}."""
    lines = ["# Three sets of real text, verified", "", costs, ""]
    lines += ["Gain over the default mix in nats per token (standard error).", ""]
    lines += ["| seed | annealed | from scratch |", "|---|---|---|"]
    for seed, (one, other) in by_seed.items():
        lines.append(f"| {seed} | {_ranked(one)} | {_ranked(other)} |")
    lines += ["", "| set | benchmark | annealed | from scratch |", "|---|---|---|---|"]
    for name in candidates:
        first, second = annealed.decisions[name], scratch.decisions[name]
        lines.append(f"| {name} | mean | {_told(first.gain)} {first.verdict} | {_told(second.gain)} {second.verdict} |")
        for benchmark, gain in first.benchmarks.items():
            lines.append(f"| {name} | {benchmark} | {_told(gain)} | {_told(second.benchmarks[benchmark])} |")
    return "\n".join(lines) + "\n"


def _ranked(found: Verification) -> str:
    return " > ".join(f"{name} {found.decisions[name].gain.mean:+.4f}" for name in found.ranking)


def _told(gain: Gain) -> str:
    return f"{gain.mean:+.4f} ({gain.error:.4f})"


if __name__ == "__main__":
    main()

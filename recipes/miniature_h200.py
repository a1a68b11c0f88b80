"""The miniature at 35 million parameters, for 25 minutes of one H200 (or another CUDA device).

    python recipes/miniature_documentation.py /tmp/text
    python recipes/miniature_h200.py /tmp/miniature --text /tmp/text/documentation.jsonl          # goes on where it was stopped

The stages and the report are those of ``miniature.py``. Without ``--text`` it trains on the speeches alone, some twenty times over;
any other .jsonl (an object with ``text`` in each line) will do as well.
"""

import argparse
from pathlib import Path

from miniature import STAGES, Miniature, Size

SIZE = Size(
    hidden_size=512,
    num_hidden_layers=10,
    num_attention_heads=8,
    num_key_value_heads=2,
    vocab_size=16_384,
    rows=64,
    steps=1800,
    earlier=(600, 1000, 1400),
    keep_every=100,
    context=8192,
    long_rows=8,
    long_steps=80,
    sft_steps=300,
    precision="bf16",
    device="cuda",
)
"""Rows of 512 tokens: 33 thousand tokens a step, 59 million a run."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--steps", type=int, help="of the long runs, the others in proportion; 1800 by default")
    parser.add_argument("--text", type=Path, help="a .jsonl in place of the speeches")
    options = parser.parse_args()
    size = SIZE if options.steps is None else SIZE.shorter(options.steps)
    Miniature(options.folder, size, text=options.text).run(options.stages.split(","))


if __name__ == "__main__":
    main()

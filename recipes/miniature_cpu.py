"""The system in miniature, on two cores within the hour: each claim beside what was measured.

    python recipes/miniature_cpu.py /tmp/miniature            # goes on where it was stopped
    python recipes/miniature_cpu.py /tmp/miniature --stages data,stable,long

5.0 million parameters, 3.7 million tokens a run; the stages are those of ``miniature.py``, the report is ``FOLDER/report.md``.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from miniature import STAGES, Miniature, Size

from whimbrel import hardware

MULTIPLY_BF16 = ("avx512bf16", "amx")
"""instruction sets"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--steps", type=int, help="of the long runs, the others in proportion; 900 by default")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        help="by default bf16 where the processor multiplies it, which nearly halves the time",
    )
    parser.add_argument("--threads", type=int, default=hardware.threads(), help="fewer where others use the cores")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = Size() if options.steps is None else Size().shorter(options.steps)
    precision = options.precision or ("bf16" if hardware.isa() in MULTIPLY_BF16 else "fp32")
    Miniature(options.folder, replace(size, precision=precision)).run(options.stages.split(","))


if __name__ == "__main__":
    main()

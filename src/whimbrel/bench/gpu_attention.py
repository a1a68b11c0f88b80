"""Sparse attention on a GPU beside torch's best dense attention: ``python -m whimbrel.bench.gpu_attention``.

Three tables, at every length: *training* (forward and backward of stage 2 over block lists), *prefill* (forward alone) and
*decode* (one query at the end). The lists are chosen by our own selection from keys and queries that drift, as a text's
do; ``random`` lists, the worst case, stand beside them. What choosing costs (semantic kernels, scores, top-k) and what
grouping lists into tiles costs is timed on its own, and counted in the column ``with selection``.

Dense peers, each refused with its reason where it can't run: torch's flash, cuDNN and memory-efficient kernels, compiled
flex attention. The best of them is the one to compare with. Needs the extra ``[torch]``, and triton; under Triton's
interpreter (``TRITON_INTERPRET=1``, ``--lengths 128 --heads 4 --dim 16 --blocks 2``) the whole path runs on the CPU and
the times mean nothing. JSON on stdout with ``--json``.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from whimbrel.attention.sparse import SparseConfig
from whimbrel.bench.record import SCHEMA_VERSION, significant
from whimbrel.ops.attend import triton as attend
from whimbrel.ops.select_blocks import triton as select_blocks
from whimbrel.ops.triton import INTERPRETED, tokens_per_tile, why_not_here

SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
LENGTHS = (32768, 65536, 131072)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Of one layer; the defaults are those of MiniCPM4-8B."""

    heads: int = 32
    groups: int = 2
    dim: int = 128
    blocks: int = 96
    """in a list, with the window's"""

    def sparse(self) -> SparseConfig:
        """A third of the blocks are the window, as in the published constants."""
        local = self.blocks // 3
        return SparseConfig(topk=self.blocks - local, window_size=local * 64, dense_len=-1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where no kernel can run."""
    options = parser().parse_args(arguments)
    reason = why_not_here()
    if reason is not None:
        print(f"gpu_attention: {reason}", file=sys.stderr)
        return 1
    if INTERPRETED:
        torch.set_num_threads(1)  # a second one only waits for the interpreter's tiny tensors
    shape = Shape(heads=options.heads, groups=options.groups, dim=options.dim, blocks=options.blocks)
    lines = []
    for length in options.lengths:
        for line in measure(shape, length, options.repeats, options.tokens):
            lines.append(line)
            print(as_text(line), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"schema_version": SCHEMA_VERSION, "machine": machine(), "lines": lines}))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m whimbrel.bench.gpu_attention", description=(__doc__ or "").split("\n")[0]
    )
    found.add_argument("--lengths", type=lambda text: [int(part) for part in text.split(",")], default=LENGTHS)
    found.add_argument("--heads", type=int, default=32)
    found.add_argument("--groups", type=int, default=2)
    found.add_argument("--dim", type=int, default=128)
    found.add_argument("--blocks", type=int, default=96, help="blocks in a list")
    found.add_argument(
        "--tokens",
        type=lambda text: [int(part) for part in text.split(",")],
        help="tokens per tile to try, such as 1,2,4,8; the default is what the kernels choose",
    )
    found.add_argument("--repeats", type=int, default=5)
    found.add_argument("--json", action="store_true", help="print the lines as JSON on stdout")
    return found


def machine() -> dict[str, str]:
    """What the numbers belong to."""
    import triton

    device = "interpreter on " + platform.machine() if INTERPRETED else torch.cuda.get_device_name()
    return {"device": device, "torch": torch.__version__, "triton": triton.__version__}


def measure(shape: Shape, length: int, repeats: int, tokens: Sequence[int] | None) -> list[dict[str, Any]]:
    """All lines of one length."""
    q, k, v = inputs(shape, length)
    sparse, scale = shape.sparse(), shape.dim**-0.5
    heads = shape.heads // shape.groups

    def choose(queries: Tensor) -> Tensor:
        return select_blocks.of_keys(queries.transpose(0, 1), k.transpose(0, 1), scale=scale, sparse=sparse)

    lines: list[dict[str, Any]] = []

    def add(phase: str, name: str, **times: Any) -> None:
        lines.append({"phase": phase, "length": length, "name": name, **times})

    def both(name: str, attention: Callable[..., Tensor], **extra: float) -> None:
        add("training", name, **forward_and_backward(attention, (q, k, v), repeats), **extra)
        add("prefill", name, **forward(partial(attention, q, k, v), repeats), **extra)

    for name, dense in dense_peers(shape, length).items():
        both(name, dense)
    selecting = forward(partial(choose, q), repeats)["forward_ms"]
    for kind, lists in (("drifting", choose(q)), ("random", random_lists(shape, length))):
        for together in tokens or [tokens_per_tile(heads)]:
            grouping = forward(partial(attend.TileLists.of, lists, together), repeats)["forward_ms"]
            ours = partial(attend.listed_attention, lists=lists, scale=scale, tokens=together)
            name = f"whimbrel {kind}, {together} tokens a tile"
            both(name, ours, selecting_ms=selecting, grouping_ms=grouping)
    last = q[:, -1:]
    for name, dense in dense_peers(shape, length, causal=False).items():
        add("decode", name, **forward(partial(dense, last, k, v), repeats))
    alone = partial(attend.listed_attention, last, k, v, choose(last), scale=scale, tokens=1)
    choosing = forward(partial(choose, last), repeats)["forward_ms"]
    add("decode", "whimbrel", **forward(alone, repeats), selecting_ms=choosing)
    return with_ratios(lines)


def inputs(shape: Shape, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [H, T, D], keys and values [G, T, D]; queries and keys drift, so that neighbours resemble each other."""
    device, dtype = ("cpu", torch.float32) if INTERPRETED else ("cuda", torch.bfloat16)
    generator = torch.Generator(device).manual_seed(0)

    def drifting(heads: int) -> Tensor:
        steps = torch.randn(heads, length, shape.dim, generator=generator, device=device) / 8
        walk = torch.cumsum(steps, 1)
        return (walk / (1 + walk.abs().mean(-1, keepdim=True))).to(dtype)

    values = torch.randn(shape.groups, length, shape.dim, generator=generator, device=device).to(dtype)
    return drifting(shape.heads), drifting(shape.groups), values


def random_lists(shape: Shape, length: int) -> Tensor:
    """Each row's own block and as many others as fit, at random: neighbours share nothing but by chance."""
    device = "cpu" if INTERPRETED else "cuda"
    blocks = -(-length // 64)
    width = min(shape.blocks, blocks)
    generator = torch.Generator(device).manual_seed(0)
    parts = []
    for first in range(0, length, 4096):
        own = torch.arange(first, min(length, first + 4096), device=device) // 64
        drawn = torch.rand(shape.groups, len(own), blocks, generator=generator, device=device)
        block = torch.arange(blocks, device=device)
        drawn = drawn.masked_fill(block > own[:, None], -1.0).masked_fill(block == own[:, None], 2.0)
        best = drawn.topk(width, -1)
        chosen = best.indices.masked_fill(best.values < 0, blocks).sort(-1).values
        parts.append(chosen.masked_fill(chosen == blocks, -1).int())
    return torch.cat(parts, 1)


def dense_peers(shape: Shape, length: int, *, causal: bool = True) -> dict[str, Callable[..., Tensor]]:
    """Dense attention of [H, T, D] over [G, L, D], by name; those that can't run here are said and left out."""
    if INTERPRETED:
        return {"torch on the CPU": lambda q, k, v: _sdpa(q, k, v, causal)}
    device, dtype = "cuda", torch.bfloat16
    found: dict[str, Callable[..., Tensor]] = {}
    rows = 256 if causal else 1
    tiny = [torch.zeros(heads, n, shape.dim, device=device, dtype=dtype)
            for heads, n in ((shape.heads, rows), (shape.groups, 256), (shape.groups, 256))]  # fmt: skip
    for name, backend in SDPA.items():

        def peer(q: Tensor, k: Tensor, v: Tensor, backend: SDPBackend = backend) -> Tensor:
            with sdpa_kernel(backend):
                return _sdpa(q, k, v, causal)

        found[name] = peer
    if causal:
        found["flex"] = _flex(length)
    for name, dense in list(found.items()):
        try:
            dense(*tiny) if name != "flex" else None
        except RuntimeError as error:
            print(f"{name} can't run: {str(error).splitlines()[0]}", file=sys.stderr)
            del found[name]
    return found


def _sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=causal, enable_gqa=True)[0]


def _flex(length: int) -> Callable[..., Tensor]:
    """Compiled flex attention with a causal block mask."""
    from torch.nn.attention.flex_attention import flex_attention

    mask = causal_blocks(length, "cuda")
    compiled = torch.compile(flex_attention)

    def peer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = compiled(q[None], k[None], v[None], block_mask=mask, enable_gqa=True)
        return out[0]

    return peer


def causal_blocks(length: int, device: str) -> Any:
    """Flex attention's causal block mask, written down: torch finds it by way of all pairs, 128 GiB of them at 128K tokens."""
    from torch.nn.attention.flex_attention import BlockMask

    blocks = -(-length // 128)
    row = torch.arange(blocks, dtype=torch.int32, device=device)
    own = torch.zeros(1, 1, blocks, blocks, dtype=torch.int32, device=device)
    own[..., 0] = row
    return BlockMask.from_kv_blocks(
        torch.ones(1, 1, blocks, dtype=torch.int32, device=device),
        own,
        row[None, None],
        row.expand(1, 1, blocks, blocks).contiguous(),
        mask_mod=lambda batch, head, query, key: query >= key,
        seq_lengths=(length, length),
    )


def forward(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Milliseconds of one call: the median."""
    with torch.no_grad():
        return {"forward_ms": significant(_median(run, repeats))}


def forward_and_backward(
    attention: Callable[..., Tensor], tensors: tuple[Tensor, ...], repeats: int
) -> dict[str, float]:
    """Milliseconds of the forward pass, of the backward pass, and of both."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    ahead = _median(lambda: attention(*leaves), repeats)
    out = attention(*leaves)
    gradient = torch.randn_like(out)
    back = _median(lambda: torch.autograd.grad(out, leaves, gradient, retain_graph=True), repeats)
    return {
        "forward_ms": significant(ahead),
        "backward_ms": significant(back),
        "total_ms": significant(ahead + back),
    }


def _median(run: Callable[[], Any], repeats: int) -> float:
    """Milliseconds, after one call that compiles and warms up."""
    if not INTERPRETED:
        run()
    times = []
    for _ in range(repeats):
        _wait()
        start = time.perf_counter()
        run()
        _wait()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _wait() -> None:
    if not INTERPRETED:
        torch.cuda.synchronize()


def with_ratios(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours against the best dense one of the phase, with and without the selection; a ratio over 1 is a gain."""
    for line in lines:
        key = "total_ms" if line["phase"] == "training" else "forward_ms"
        dense = [peer for peer in lines if peer["phase"] == line["phase"] and not peer["name"].startswith("whimbrel")]
        if not line["name"].startswith("whimbrel") or not dense:
            continue
        best = min(dense, key=lambda peer: peer[key])
        line["best_dense"] = best["name"]
        line["speedup"] = significant(best[key] / line[key])
        line["speedup_with_selection"] = significant(best[key] / (line[key] + line["selecting_ms"]))
    return lines


def as_text(line: dict[str, Any]) -> str:
    """One line for people."""
    numbers = "  ".join(f"{key} {value}" for key, value in line.items() if key not in ("phase", "length", "name"))
    return f"{line['phase']:8} {line['length']:>7}  {line['name']:36} {numbers}"


if __name__ == "__main__":
    sys.exit(main())

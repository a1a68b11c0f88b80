"""Long prompts from chunks: the area under a line, and llama.cpp's saved state repeated."""

import struct

import pytest
from scripted_side import ScriptedSide

from whimbrel.bench import compare
from whimbrel.bench.depths import DeepPeer, DepthCost, prompt_seconds
from whimbrel.bench.llama_state import repeated
from whimbrel.bench.side import Timing
from whimbrel.errors import FormatError


def line(depth: float) -> float:
    return 0.001 + 2e-6 * depth


@pytest.mark.parametrize("tokens", [1000, 8192, 100_000])
def test_a_straight_line_gives_its_exact_area(tokens: int) -> None:
    costs = [DepthCost(depth, line(depth)) for depth in (256, 2304, 8320, 32800)]
    assert prompt_seconds(costs, tokens) == pytest.approx(0.001 * tokens + 1e-6 * tokens**2)


def test_bends_are_followed() -> None:
    costs = [DepthCost(0, 1.0), DepthCost(10, 1.0), DepthCost(20, 3.0)]
    assert prompt_seconds(costs, 20) == pytest.approx(10 + 20)


class DeepSide(ScriptedSide):
    """Takes ``line(depth)`` seconds for each token of a prompt."""

    def measure_at(self, setting: str, depth: int, chunk: int, decode: int) -> Timing:
        self.log.append(f"{setting} at {depth}")
        prefill = sum(line(depth + i + 0.5) for i in range(chunk))
        return Timing(prefill=prefill, decode=decode * line(depth), decoded=decode, foreign_load=0.0)


def test_the_peers_prompt_is_computed_and_its_new_tokens_measured_at_the_end() -> None:
    side = DeepSide({"q4": (1.0, 1.0)})
    peer = DeepPeer(side, 65536 + 100)
    timing = peer.measure("q4", [0] * 65636, 64)
    assert timing.prefill == pytest.approx(0.001 * 65636 + 1e-6 * 65636**2, rel=1e-6)
    assert timing.decode / timing.decoded == pytest.approx(line(65536))
    assert side.log == [f"q4 at {depth}" for depth in (0, 2048, 8192, 32768, 65536)]
    peer.measure("q4", [0] * 65636, 64)
    assert side.log[5:] == ["q4 at 65536"]


def test_long_contexts_are_measured_dense_and_sparse_and_say_that_the_peer_was_computed() -> None:
    ours = ScriptedSide({"dense": (1000.0, 120.0), "sparse": (2000.0, 240.0)})
    result = compare.measure(ours, DeepSide({"q4": (1.0, 1.0)}), [512, 12288, 32768, 65536], 2, 8, 1000, print)
    rows = result["rows"]
    assert isinstance(rows, list)
    found = [(row["context"], row["attention"]) for row in rows if row["phase"] == "decode"]
    dense, sparse = "dense", "sparse"
    assert found == [(512, dense), (12288, dense), (12288, sparse), (32768, dense), (32768, sparse), (65536, sparse)]
    sparse_bytes = next(row["bytes_per_token"] for row in rows[::-1] if row["phase"] == "decode")
    assert sparse_bytes == 1_000_000 + 1000 * 6144 + 50 * (65536 + 4)
    assert {row["context"] for row in rows if row["peer_prompt"] != "whole"} == {32768, 65536}


def saved(cells: int, layers: int, row: int, *, transposed: bool) -> bytes:
    """A state as the library writes it; every value byte tells its cell."""
    state = struct.pack("<III", 7, 1, cells)
    state += b"".join(struct.pack("<iII", i, 1, 0) for i in range(cells))
    state += struct.pack("<II", transposed, layers)
    rows = b"".join(bytes([i]) * row for i in range(cells))
    state += (struct.pack("<iQ", 1, row) + rows) * layers
    columns = b"".join(bytes([i, i]) for i in range(cells)) * (row // 2)
    values = struct.pack("<iII", 1, 2, row // 2) + columns if transposed else struct.pack("<iQ", 1, row) + rows
    return state + values * layers + b"end"


@pytest.mark.parametrize("transposed", [False, True])
def test_a_saved_state_is_repeated_with_positions_counted_on(transposed: bool) -> None:
    longer = bytes(repeated(saved(4, 3, 6, transposed=transposed), 4, 3))
    reference = bytearray(saved(12, 3, 6, transposed=transposed))
    # cells 4 .. 11 hold copies of 0 .. 3
    keys = len(struct.pack("<III", 7, 1, 12)) + 12 * 12
    assert longer[:keys] == reference[:keys]
    assert len(longer) == len(reference)
    assert set(longer[keys + 8 + 12 : keys + 8 + 12 + 12 * 6]) == {0, 1, 2, 3}
    assert longer[keys + 8 + 12 : keys + 8 + 12 + 24] == longer[keys + 8 + 12 + 24 : keys + 8 + 12 + 48]
    assert longer.endswith(b"end")


@pytest.mark.parametrize("cells", [5, 512])
def test_a_state_of_another_layout_is_refused(cells: int) -> None:
    with pytest.raises(FormatError, match="layout is unknown"):
        repeated(saved(4, 3, 6, transposed=False), cells, 2)

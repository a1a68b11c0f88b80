"""What stands beside every number."""

import time

import pytest

from whimbrel.bench.peer_build import HEADER, cmake_arguments, works
from whimbrel.bench.record import ForeignLoad, Spread
from whimbrel.eval.provenance import provenance


def test_spread() -> None:
    assert Spread.of([3.00049, 1.0, 2.0]) == Spread(1.0, 2.0, 3.0)
    assert Spread.of([5.0]) == Spread(5.0, 5.0, 5.0)


def test_provenance_names_machine_commit_and_command() -> None:
    found = provenance()
    assert found["command"]
    assert isinstance(found["machine"], dict)
    assert found["machine"]["cores"] >= 1


def test_own_work_is_not_foreign() -> None:
    with ForeignLoad() as foreign:
        end = time.perf_counter() + 0.2
        while time.perf_counter() < end:
            pass
    if foreign.share is None:
        pytest.skip("this system doesn't say")
    assert 0 <= foreign.share <= 1


def test_amx_needs_the_header_and_nothing_else_does() -> None:
    assert any(str(HEADER) in argument for argument in cmake_arguments(frozenset({"avx2", "amx_tile"})))
    assert not any(str(HEADER) in argument for argument in cmake_arguments(frozenset({"avx2"})))
    assert HEADER.is_file()


def test_a_build_without_amx_is_not_the_peers_best_where_there_is_amx() -> None:
    assert not works("CPU : AVX512 = 1", frozenset({"amx_int8"}))
    assert works("CPU : AVX512 = 1 | AMX_INT8 = 1", frozenset({"amx_int8"}))
    assert works("CPU : AVX2 = 1", frozenset({"avx2"}))

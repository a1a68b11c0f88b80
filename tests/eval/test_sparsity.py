"""Recalled attention mass: by hand for one query, and of a tiny network whose attention can be computed directly."""

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from whimbrel.attention.sparse import SparseConfig
from whimbrel.backends.executor import Request, SamplingParams
from whimbrel.backends.native import NativeExecutor
from whimbrel.engine import Engine
from whimbrel.errors import InvalidParameter
from whimbrel.eval.probe import Observation, Probe
from whimbrel.eval.sparsity import Recall, Sparsity, recall, sparsity, summary
from whimbrel.formats.packed import pack
from whimbrel.ops import dispatch
from whimbrel.testing import tiny

SPARSE = SparseConfig(topk=2, window_size=0, dense_len=-1)
IDS = tuple(int(id) for id in np.random.default_rng(5).integers(3, tiny.VOCAB_SIZE, 400))


def network(probe: Probe | None, sparse: SparseConfig | None = SPARSE) -> NativeExecutor:
    """A tiny llama on the reference ops, watched or not."""
    config = tiny.config(sparse_config=None if sparse is None else sparse.to_hf())
    model = SimpleNamespace(
        config=config, params=tiny.params(config, matrix=functools.partial(pack, layout="f32", group=32))
    )
    ops = dispatch.bind("reference")
    return NativeExecutor(
        Engine(model, ops=ops if probe is None else probe.table(ops), max_context=512, kv_dtype="f32")
    )


def test_one_query_by_hand() -> None:
    mass = np.array([0.1, 0.3, 0.0, 0.2, 0.15, 0.25], np.float32)
    # blocks 0 (first) and 5 (own) are forced, 3 was chosen where 1 would have been best
    found = recall(mass, np.array([0, 3, 5, -1], np.int32), position=5 * 64 + 7, sparse=SPARSE)
    assert found.share == pytest.approx(0.55)
    assert found.oracle_share == pytest.approx(0.75)
    assert found.recall == pytest.approx(0.55 / 0.75)
    assert found.chosen_recall == pytest.approx(0.2 / 0.3)


def test_sums_and_worst_heads() -> None:
    good, bad = Recall(total=1, selected=0.9, oracle=1, chosen=0.5, oracle_chosen=0.5), Recall(total=1, oracle_chosen=1)
    found = Sparsity(heads={(0, 0): good, (0, 1): bad, (1, 0): good}, queries=1, blocks=0.5)
    assert found.worst(1) == [(0, 1)]
    assert found.layers()[0].share == pytest.approx(0.45)
    assert found.whole.chosen_recall == pytest.approx(0.5)


def test_the_watched_network_attends_to_everything() -> None:
    request = Request(token_ids=IDS, params=SamplingParams(max_tokens=9, ignore_eos=True))

    def written(executor: NativeExecutor) -> list[int]:
        return [token for step in executor.generate(request) for token in step.token_ids]

    assert written(network(Probe())) == written(network(None, sparse=None))


def test_mass_and_lists_of_every_layer_and_head() -> None:
    probe = Probe()
    executor = network(probe)
    found = sparsity(executor, probe, IDS, samples=2, tokens=3)
    config: Any = tiny.config()
    assert set(found.heads) == {
        (layer, head) for layer in range(config.num_hidden_layers) for head in range(config.num_key_value_heads)
    }
    assert found.queries == 2 * 3
    share = config.num_attention_heads // config.num_key_value_heads
    for at in found.heads.values():
        assert at.total == pytest.approx(6 * share, rel=1e-4)
        assert at.selected <= at.oracle + 1e-6 and at.chosen <= at.oracle_chosen + 1e-6
    assert 0.25 < found.blocks < 0.6  # 2 of 4 to 7
    assert probe.take() == []


def test_a_perfect_selection_recalls_everything() -> None:
    mass = np.array([[0.5, 0.3, 0.1, 0.1]], np.float32)
    seen = Observation(0, 3 * 64, mass, np.array([[0, 1, 3]], np.int32), SPARSE)
    assert summary([seen]).whole.chosen_recall == 1
    # the own block is forced in, though a better one exists
    assert summary([seen]).whole.recall == 1


@pytest.mark.parametrize(
    ("sparse", "length", "samples", "message"),
    [
        (None, 400, 2, "attention is dense"),
        (SPARSE, 100, 2, "no token before 129 is sparse"),
        (SPARSE, 400, 0, "samples=0"),
    ],
)
def test_what_can_not_be_measured(sparse: SparseConfig | None, length: int, samples: int, message: str) -> None:
    probe = Probe()
    with pytest.raises(InvalidParameter, match=message):
        sparsity(network(probe, sparse), probe, IDS[:length], samples=samples)

"""A small model learns, a stopped run goes on as if it had not been stopped, and gradients pass block selection."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import cross_entropy

from whimbrel.attention.dense_view import DenseView
from whimbrel.attention.inputs import AttentionInputs
from whimbrel.attention.sparse import SparseConfig
from whimbrel.errors import FormatError, InvalidParameter
from whimbrel.models.rope import rope_table
from whimbrel.ops.dispatch import bind
from whimbrel.testing import tiny
from whimbrel.train import checkpoint, network, packed_attention
from whimbrel.train.loop import Losses, Run, train
from whimbrel.train.ops import training_ops
from whimbrel.train.parameters import decoder_params, from_decoder, random_parameters
from whimbrel.train.schedule import WSD
from whimbrel.train.selection_loss import SelectionLoss, selection_loss

SPARSE = SparseConfig(topk=2, window_size=0, dense_len=-1)
CONFIG = tiny.config("qwen2", hidden_size=32, intermediate_size=64, head_dim=32)
LENGTH = 400


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of matrices this small wait for each other, on a busy machine for seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(step: int, length: int = 48, sequences: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Ids that repeat after 8, so that there is something to learn; and their positions."""
    rng = np.random.default_rng(step)
    ids = np.tile(rng.integers(0, 40, (sequences, 8)), (1, length // 8)).astype(np.int32)
    return ids, np.tile(np.arange(length, dtype=np.int32), (sequences, 1))


class Lesson:
    """One set of parameters and the loss of its steps."""

    def __init__(self) -> None:
        self.parameters = random_parameters(CONFIG)
        self.ops, self.rope = training_ops(), rope_table(CONFIG, LENGTH)

    def losses(self, step: int) -> Losses:
        ids, positions = batch(step)
        hidden = network.hidden_states(CONFIG, self.parameters, self.ops, self.rope, ids, positions)
        logits = network.scores(CONFIG, self.parameters, self.ops, hidden[:, :-1].flatten(0, 1))
        return {"loss": cross_entropy(logits, torch.from_numpy(ids[:, 1:]).flatten().long())}


def run(folder: Path, total: int = 30) -> Run:
    return Run(folder=folder, schedule=WSD(peak=5e-3, warmup=5, total=total, decay=5), log_every=1, save_every=7)


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_loss_falls(tmp_path: Path) -> None:
    lesson = Lesson()
    train(lesson.parameters, lesson.losses, run(tmp_path))
    lines = logged(tmp_path)
    assert [line["step"] for line in lines] == list(range(30))
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]


def test_a_stopped_run_goes_on_as_if_it_was_not(tmp_path: Path) -> None:
    whole, stopped = Lesson(), Lesson()
    train(whole.parameters, whole.losses, run(tmp_path / "whole", 12))
    train(stopped.parameters, stopped.losses, run(tmp_path / "parts", 12), stop=5)
    resumed = Lesson()
    train(resumed.parameters, resumed.losses, run(tmp_path / "parts", 12))
    for name, tensor in whole.parameters.items():
        assert torch.equal(tensor, resumed.parameters[name]), name
    timeless = [[{k: v for k, v in line.items() if k != "seconds"} for line in logged(tmp_path / x)]
                for x in ("whole", "parts")]  # fmt: skip
    assert timeless[0] == timeless[1]


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    torch.save({"version": 99}, tmp_path / "state.pt")
    with pytest.raises(FormatError, match="version 99"):
        checkpoint.load(tmp_path / "state.pt")


def test_wsd_rises_stays_and_falls() -> None:
    schedule = WSD(peak=1.0, warmup=4, total=20, decay=5, floor=0.1)
    rates = [schedule.rate(step) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(rates[4:15]) == {1.0}
    assert rates[15:] == sorted(rates[15:], reverse=True) and rates[15] < 1.0
    assert rates[-1] == pytest.approx(0.1)
    with pytest.raises(InvalidParameter, match="do not fit"):
        WSD(peak=1.0, warmup=4, total=5, decay=5)


def hidden_and_gradients(config: object, ops: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    parameters = random_parameters(CONFIG)
    ids, positions = batch(3, LENGTH, 2)
    hidden = network.hidden_states(config, parameters, ops, rope_table(CONFIG, LENGTH), ids, positions)
    hidden.square().sum().backward()
    return hidden.detach(), {name: tensor.grad for name, tensor in parameters.items() if tensor.grad is not None}


@pytest.mark.parametrize("sparse", [None, SPARSE], ids=["dense", "sparse"])
@pytest.mark.parametrize("masked", [4096, 0], ids=["masked", "gathered"])
def test_training_ops_are_the_reference(
    sparse: SparseConfig | None, masked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden states and all gradients, whichever way attention is computed."""
    monkeypatch.setattr(packed_attention, "MASKED", masked)
    config = replace(CONFIG, sparse=sparse)
    hidden, gradients = hidden_and_gradients(config, training_ops())
    expected, wanted = hidden_and_gradients(config, bind("reference"))
    assert torch.allclose(hidden, expected, atol=1e-4, rtol=1e-4)
    for name, gradient in wanted.items():
        assert torch.allclose(gradients[name], gradient, atol=1e-4 * gradient.abs().max().item(), rtol=1e-3), name


def test_sparse_gradients_reach_queries_keys_and_values_of_chosen_blocks_only() -> None:
    """The last row's loss: keys of blocks in its list get a gradient, all others none."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(LENGTH, heads, 32, generator=rng).requires_grad_() for heads in (4, 2, 2))
    ids = np.zeros(LENGTH, np.int32)
    inputs = AttentionInputs(
        token_ids=ids,
        positions=np.arange(LENGTH, dtype=np.int32),
        cu_seqlens=np.array([0, LENGTH], np.int32),
        kv_lengths=np.array([LENGTH], np.int32),
        block_tables=np.full((1, 1), -1, np.int32),
    )
    ops, cache = training_ops(), DenseView(2, 32)
    cache.write(0, k, v, inputs)
    ops.semantic_kernels(inputs, cache, 0, sparse=SPARSE)
    blocks = ops.select_blocks(q, inputs, cache, 0, scale=32**-0.5, sparse=SPARSE)
    ops.attend(q, inputs, cache, 0, scale=32**-0.5, blocks=blocks)[-1].sum().backward()
    assert q.grad is not None and k.grad is not None and v.grad is not None
    assert bool(q.grad[-1].any()) and not bool(q.grad[:-1].any())
    for head in range(2):
        seen = torch.zeros(7 * 64, dtype=torch.bool)
        for block in blocks[head, -1][blocks[head, -1] >= 0].tolist():
            seen[block * 64 : block * 64 + 64] = True
        assert 0 < seen.sum() < LENGTH
        assert torch.equal(v.grad[:, head].abs().sum(-1) > 0, seen[:LENGTH])
        assert not k.grad[~seen[:LENGTH], head].any()


def test_selection_loss_teaches_kernels_to_find_what_attention_reads() -> None:
    """One key in each of 3 rows is what a query reads; the keys around it hide it from their kernel's average."""
    rng = torch.Generator().manual_seed(0)
    keys = torch.randn(LENGTH, 1, 32, generator=rng)
    rows = torch.arange(LENGTH - 3, LENGTH)
    q = torch.randn(3, 1, 32, generator=rng)
    keys[[70, 140, 210], 0] = 4 * q[:, 0]
    change = torch.zeros(32, 32, requires_grad=True)  # of the key projection
    optimizer = torch.optim.Adam([change], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = selection_loss(q, keys + keys @ change, rows, 32**-0.5, SPARSE)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 0.05  # it was hidden
    assert losses[-1] < 0.7 * losses[0]


def test_watching_selection_does_not_change_the_network() -> None:
    parameters, config = random_parameters(CONFIG), replace(CONFIG, sparse=SPARSE)
    ops, rope, (ids, positions) = training_ops(), rope_table(CONFIG, LENGTH), batch(5, LENGTH, 1)
    watcher = SelectionLoss(np.arange(LENGTH - 8, LENGTH)[None], SPARSE)
    watched = network.hidden_states(config, parameters, watcher.watch(ops), rope, ids, positions)
    assert torch.equal(watched, network.hidden_states(config, parameters, ops, rope, ids, positions))
    watcher.total().backward()
    gradients = [parameters[f"model.layers.1.self_attn.{name}_proj.weight"].grad for name in "qkv"]
    assert gradients[0] is not None and gradients[1] is not None and bool(gradients[0].any())
    assert gradients[2] is None or not bool(gradients[2].any())


def test_parameters_are_those_of_the_decoder() -> None:
    """Tied embeddings are one tensor, and the names are those of a checkpoint."""
    config = tiny.config("llama")
    parameters = random_parameters(config)
    params = decoder_params(config, parameters)
    assert params.lm_head is params.embed_tokens is parameters["model.embed_tokens.weight"]
    assert params.layers[1].k_proj is parameters["model.layers.1.self_attn.k_proj.weight"]
    assert set(parameters) == set(tiny.weights(config))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_loaded_weights_become_the_same_network(family: str) -> None:
    """Packed or not, biased or not: from decoder parameters to trainable ones and back."""
    config = tiny.config(family)
    loaded = tiny.params(config)
    again = decoder_params(config, from_decoder(config, loaded))
    assert again.layers[1].q_proj.requires_grad
    assert np.array_equal(again.layers[1].q_proj.detach().numpy(), loaded.layers[1].q_proj)
    if config.attention_bias:
        assert np.array_equal(again.layers[0].qkv_bias.detach().numpy(), loaded.layers[0].qkv_bias)
    assert (again.lm_head is again.embed_tokens) == config.tie_word_embeddings

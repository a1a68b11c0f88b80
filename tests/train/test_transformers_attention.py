"""``infllm_v2`` in tiny models of transformers, against our reference ops, sdpa, and itself step by step."""

import warnings
from typing import Any

import pytest
import torch

from whimbrel.attention.sparse import SparseConfig
from whimbrel.errors import FormatError, UnsupportedCapability
from whimbrel.train import sparse_attention

transformers = pytest.importorskip("transformers", minversion="5")
from whimbrel.train import transformers_attention

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SPARSE = {"topk": 3, "window_size": 64, "dense_len": -1, "lse": "exact"}
"""Four blocks: sparse from the 257th token on."""
FAMILIES = {
    "llama": lambda **options: transformers.LlamaConfig(**options),
    "qwen2": lambda **options: transformers.Qwen2Config(**options),
    "mistral": lambda **options: transformers.MistralConfig(**{"sliding_window": None} | options),
}
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)


def tiny(family: str = "llama", implementation: str = "infllm_v2", sparse: Any = SPARSE, **options: Any) -> Any:
    """A seeded model of two layers, four query heads and two key/value heads."""
    config = FAMILIES[family](
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    if sparse is not None:
        config.sparse_config = sparse
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()


def checkpoint(model: Any) -> None:
    """Layers are computed again in the backward pass; transformers is about to rename this."""
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


def tokens(length: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, 97, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits(model: Any, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(ids, **options).logits
    return found


@EVERY_FAMILY
def test_as_many_blocks_as_there_are_is_dense_attention(family: str) -> None:
    ids = tokens(256)
    torch.testing.assert_close(logits(tiny(family), ids), logits(tiny(family, "sdpa"), ids), rtol=1e-4, atol=1e-4)
    more = tokens(400)
    assert not torch.allclose(logits(tiny(family), more)[:, -1], logits(tiny(family, "sdpa"), more)[:, -1], atol=1e-2)


@EVERY_FAMILY
def test_generate_equals_reading_the_text_again_for_every_token(family: str) -> None:
    model, ids = tiny(family), tokens(300)
    made = model.generate(ids, max_new_tokens=6, do_sample=False)
    for _ in range(6):
        ids = torch.cat([ids, logits(model, ids)[:, -1:].argmax(-1)], 1)
    assert made.tolist() == ids.tolist()


def test_a_static_cache_is_longer_than_what_it_holds() -> None:
    model, ids = tiny(), tokens(300)
    expected = model.generate(ids, max_new_tokens=4, do_sample=False)
    static = model.generate(ids, max_new_tokens=4, do_sample=False, cache_implementation="static", disable_compile=True)
    assert static.tolist() == expected.tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str) -> None:
    model = tiny()
    alone = [tokens(length, seed=length) for length in (420, 300)]
    batch, mask = torch.zeros(2, 420, dtype=torch.int64), torch.zeros(2, 420, dtype=torch.int64)
    for row, ids in enumerate(alone):
        part = slice(420 - ids.shape[1], None) if side == "left" else slice(ids.shape[1])
        batch[row, part], mask[row, part] = ids[0], 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    together = logits(model, batch, attention_mask=mask, position_ids=positions)
    for row, ids in enumerate(alone):
        torch.testing.assert_close(together[row, mask[row].bool()], logits(model, ids)[0], rtol=1e-4, atol=1e-4)


def test_a_padded_batch_generates_what_each_sequence_generates_alone() -> None:
    model = tiny()
    alone = [tokens(length, seed=length) for length in (320, 280)]
    batch = torch.cat([alone[0], torch.cat([torch.zeros(1, 40, dtype=torch.int64), alone[1]], 1)])
    made = model.generate(batch, attention_mask=(batch != 0).long(), max_new_tokens=4, do_sample=False)
    for row, ids in enumerate(alone):
        assert made[row, 320:].tolist() == model.generate(ids, max_new_tokens=4, do_sample=False)[0, -4:].tolist()


@EVERY_FAMILY
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_lowers_the_loss(family: str, checkpointing: bool) -> None:
    model, ids = tiny(family).train(), tokens(320)
    if checkpointing:
        checkpoint(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(4):
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


def test_checkpointing_gives_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        model = tiny().train()
        if checkpointing:
            checkpoint(model)
        model(tokens(320), labels=tokens(320), use_cache=False).loss.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_model_without_constants_takes_the_published_ones_and_says_so() -> None:
    model = tiny(sparse=None)
    with pytest.warns(UserWarning, match="no sparse_config, so MiniCPM4's constants are used"):
        logits(model, tokens(10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits(tiny(), tokens(10))
    with pytest.raises(FormatError, match="top_k is unknown"):
        logits(tiny(sparse={"top_k": 3}), tokens(10))


def test_what_would_be_ignored_is_refused() -> None:
    ids = tokens(80)
    for message, model, options in (
        ("dropout 0.1", tiny(attention_dropout=0.1).train(), {}),
        ("sliding window", tiny("mistral", sliding_window=64), {}),
        ("packed sequences", tiny(), {"position_ids": torch.arange(80)[None] % 40, "use_cache": False}),
        ("takes the padding mask", tiny(), {"attention_mask": torch.ones(1, 1, 80, 80)}),
        ("has a hole", tiny(), {"attention_mask": (torch.arange(80) % 7 != 3)[None].long()}),
        ("use_nope", tiny(sparse=SPARSE | {"use_nope": True}), {}),
    ):
        with pytest.raises(UnsupportedCapability, match=message):
            logits(model, ids, **options)
    assert logits(tiny("mistral", sliding_window=80), ids).shape == (1, 80, 97)
    with pytest.raises(UnsupportedCapability, match="softcap"):
        transformers_attention.attend(
            tiny().model.layers[0].self_attn, *torch.zeros(3, 1, 2, 4, 16), None, softcap=30.0
        )


@pytest.mark.interp
@pytest.mark.gpu
def test_triton_gives_the_gradients_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole path, selection too: compiled on CUDA, else under the interpreter."""
    triton = pytest.importorskip("whimbrel.ops.triton", exc_type=ImportError)
    if triton.why_not_here() is not None:
        pytest.skip(triton.why_not_here())
    device = "cpu" if triton.INTERPRETED else "cuda"
    sparse = SparseConfig(topk=2, window_size=64, dense_len=200, lse="exact")
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 240, 32), (1, 2, 240, 32), (1, 2, 240, 32))
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    weights = torch.randn(shapes[0], generator=generator)
    found = []
    for there, kernels in ((device, True), ("cpu", False)):
        monkeypatch.setattr(sparse_attention, "has_kernels", lambda q, kernels=kernels: kernels)
        leaves = [tensor.to(there).requires_grad_() for tensor in tensors]
        out = sparse_attention.sparse_attention(*leaves, sparse=sparse)
        found.append(
            [out.cpu(), *(part.cpu() for part in torch.autograd.grad((out * weights.to(there)).sum(), leaves))]
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

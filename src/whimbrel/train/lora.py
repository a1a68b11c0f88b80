"""LoRA: a frozen model plus low-rank changes ``(alpha / rank) B A`` of chosen matrices. Source: Hu et al. (2021).

Changed matrices are made anew in every step, so that the network and every op stay as they are.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from whimbrel.errors import InvalidParameter
from whimbrel.formats.safetensors import TensorSource, write_safetensors
from whimbrel.train.parameters import Parameters

A, B = ".lora_A.weight", ".lora_B.weight"
PEFT = "base_model.model."


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Which matrices change, and by how much freedom."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """last parts of their names"""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not self.targets:
            raise InvalidParameter(f"lora: rank {self.rank} and alpha {self.alpha} must be positive, targets not empty")


def lora_parameters(base: Mapping[str, Tensor], lora: Lora, seed: int = 0) -> Parameters:
    """A uniform in +-1 / sqrt(inputs), B zero: the model begins as the base. Raises InvalidParameter for unknown targets."""
    generator, parameters = torch.Generator().manual_seed(seed), {}
    missing = [target for target in lora.targets if not any(_is(name, target) for name in base)]
    if missing:
        raise InvalidParameter(f"lora: the model has no matrix {missing[0]!r}; targets are like q_proj or down_proj")
    for name, weight in base.items():
        if any(_is(name, target) for target in lora.targets):
            outputs, inputs = weight.shape
            uniform = torch.rand(lora.rank, inputs, generator=generator)
            parameters[_stem(name) + A] = nn.Parameter((2 * uniform - 1) * inputs**-0.5)
            parameters[_stem(name) + B] = nn.Parameter(torch.zeros(outputs, lora.rank))
    return parameters


def merged(base: Mapping[str, Tensor], changes: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The base with its changes; gradients reach the changes."""
    tensors, scale = dict(base), lora.alpha / lora.rank
    for name, weight in base.items():
        if _stem(name) + A in changes:
            tensors[name] = torch.addmm(weight, changes[_stem(name) + B], changes[_stem(name) + A], alpha=scale)
    return tensors


def export_adapter(changes: Mapping[str, Tensor], lora: Lora, folder: str | Path, base: str) -> Path:
    """``adapter_model.safetensors`` and ``adapter_config.json`` as the peft library reads them."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    values = {PEFT + name: np.ascontiguousarray(tensor.detach().numpy()) for name, tensor in changes.items()}
    sources = [
        TensorSource(name=name, dtype="F32", shape=tuple(value.shape), chunks=lambda value=value: [value])  # type: ignore[misc]
        for name, value in values.items()
    ]
    write_safetensors(target / "adapter_model.safetensors", sources)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(lora.targets),
        "inference_mode": True,
    }
    (target / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return target


def _is(name: str, target: str) -> bool:
    return name.endswith(f".{target}.weight")


def _stem(name: str) -> str:
    return name.removesuffix(".weight")

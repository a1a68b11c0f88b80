"""muP and standard parametrization: how weights begin, and which learning rate each tensor gets.

With m = hidden_size / base_width, muP as MiniCPM uses it (2024, table 7):

    matrices                  begin with std ``init_std / sqrt(m)``, learn with ``rate / m``
    embedding and lm_head     the same with ``embed_rule="matrix"``; ``init_std`` and ``rate`` with ``"vector"``
    norms and biases          begin at 1 and 0, learn with ``rate``
    network                   scale_emb at the input, scale_depth / sqrt(layers) at each block, logits / m

The last line is in the model's configuration (``mup_config``). The paper's table says all two-dimensional tensors; in
the theory an embedding is a vector, since only one of its sizes grows with the width (Yang et al. 2022).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from whimbrel.errors import InvalidParameter
from whimbrel.models.config import ModelConfig
from whimbrel.models.init import hf_shapes
from whimbrel.train.parameters import Parameters

KINDS = ("mup", "standard")
EMBED_RULES = ("vector", "matrix")


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """AdamW, and the parametrization that its groups follow."""

    parametrization: str = "mup"
    """mup or standard"""
    base_width: int = 256
    """mup: the width at which the rates are what the schedule says"""
    embed_rule: str = "vector"
    """mup: whether embedding and lm_head scale as vectors (not at all) or as matrices"""
    init_std: float | None = None
    """std of the matrices at the base width; None: 0.1 for mup (MiniCPM), 0.02 for standard"""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    """of matrices and embeddings, times the group's rate; norms and biases have none"""

    def __post_init__(self) -> None:
        if self.parametrization not in KINDS:
            raise InvalidParameter(f"parametrization {self.parametrization!r} is unknown; choose {' or '.join(KINDS)}")
        if self.embed_rule not in EMBED_RULES:
            raise InvalidParameter(f"embed_rule {self.embed_rule!r} is unknown; choose {' or '.join(EMBED_RULES)}")
        if self.base_width < 1 or (self.init_std is not None and self.init_std <= 0) or self.eps <= 0:
            raise InvalidParameter(
                f"base_width {self.base_width}, init_std {self.init_std} and eps {self.eps} must be positive"
            )
        if self.weight_decay < 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise InvalidParameter(f"weight_decay {self.weight_decay} must be at least 0, betas {self.betas} in [0, 1)")

    def width_ratio(self, config: ModelConfig) -> float:
        """m; 1 for the standard parametrization."""
        return config.hidden_size / self.base_width if self.parametrization == "mup" else 1.0


def mup_config(
    config: ModelConfig, base_width: int, *, scale_emb: float = 12.0, scale_depth: float = 1.4
) -> ModelConfig:
    """The configuration with MiniCPM's scalings for a base width; its family becomes minicpm, which stores them."""
    return replace(
        config,
        model_type="minicpm",
        scale_emb=scale_emb,
        residual_scale=scale_depth / math.sqrt(config.num_hidden_layers),
        logit_scale=base_width / config.hidden_size,
    )


def check_scalings(config: ModelConfig, optimizer: Optimizer) -> None:
    """Raise InvalidParameter where the network's logits contradict the optimizer's base width."""
    if optimizer.parametrization == "mup" and not math.isclose(
        config.logit_scale, 1 / optimizer.width_ratio(config), rel_tol=1e-6
    ):
        raise InvalidParameter(
            f"mup with base_width {optimizer.base_width}: the model divides its logits by "
            f"{1 / config.logit_scale:g}, {optimizer.width_ratio(config):g} was expected; set dim_model_base to "
            f"base_width (train.parametrization.mup_config), or choose parametrization standard"
        )


def initial_parameters(config: ModelConfig, optimizer: Optimizer, seed: int = 0) -> Parameters:
    """Fresh fp32 parameters, under the names of a Hugging Face checkpoint; the same seed gives the same values.

    The standard parametrization makes what writes to the residual stream sqrt(2 layers) smaller, as GPT-2 did.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = (2 * config.num_hidden_layers) ** -0.5 if optimizer.parametrization == "standard" else 1.0
    parameters = {}
    for name, shape in hf_shapes(config).items():
        if len(shape) == 1:
            values = torch.ones(shape) if name.endswith("norm.weight") else torch.zeros(shape)
        else:
            values = torch.randn(shape, generator=generator) * initial_std(config, optimizer, name)
            values *= depth if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
        parameters[name] = nn.Parameter(values)
    return parameters


def initial_std(config: ModelConfig, optimizer: Optimizer, name: str) -> float:
    """Of a matrix at the start, without the standard parametrization's factor of depth."""
    base = optimizer.init_std or (0.1 if optimizer.parametrization == "mup" else 0.02)
    return base if _constant(config, optimizer, name) else base / math.sqrt(optimizer.width_ratio(config))


def rate_scale(config: ModelConfig, optimizer: Optimizer, name: str, ndim: int) -> float:
    """What the schedule's rate is multiplied by for a tensor."""
    if ndim < 2 or _constant(config, optimizer, name):
        return 1.0
    return 1 / optimizer.width_ratio(config)


def groups(config: ModelConfig, optimizer: Optimizer, parameters: Parameters) -> list[dict[str, Any]]:
    """AdamW's parameter groups: ``params``, ``weight_decay``, ``rate_scale``; tensors without gradient are left out."""
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            decay = optimizer.weight_decay if parameter.ndim > 1 else 0.0
            found.setdefault((rate_scale(config, optimizer, name, parameter.ndim), decay), []).append(parameter)
    return [{"params": found[key], "rate_scale": key[0], "weight_decay": key[1]} for key in found]


def _constant(config: ModelConfig, optimizer: Optimizer, name: str) -> bool:
    """Whether a matrix is treated as one whose size does not grow."""
    ends = {config.family.hf_model_names[field] for field in ("embed_tokens", "lm_head")}
    return optimizer.parametrization == "standard" or (optimizer.embed_rule == "vector" and name in ends)

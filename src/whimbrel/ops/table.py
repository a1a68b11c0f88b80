"""The table of ops that a decoder calls: bound once, when a model is loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class OpTable:
    """Plain callables, resolved; a decode step performs no choosing. Each is specified in ``ops/<name>/__init__.py``."""

    embedding: Callable[..., Any]
    norm_linear: Callable[..., Any]
    rotary_write: Callable[..., Any]
    semantic_kernels: Callable[..., Any]
    block_scores: Callable[..., Any]
    select_blocks: Callable[..., Any]
    attend: Callable[..., Any]
    linear_residual: Callable[..., Any]
    norm_swiglu: Callable[..., Any]
    sample: Callable[..., Any]
    implementations: Mapping[str, str] = field(default_factory=dict)
    """op name -> the implementation that was bound ("triton", "native", "reference"); a record, for people"""

"""engine: who runs now, with which memory?

For: many sequences in one process; ``step()`` plans, runs, samples, commits and traces.
In: ``Request`` (token ids and ``SamplingParams``).
Out: ``StepOutput`` (token ids, log-probabilities, progress of the prompt, usage, timings), one per sequence and step.
May not: see text, files or HTTP; know a model by name.
"""

from whimbrel.engine.engine import Engine, EngineStats
from whimbrel.engine.request import (
    FinishReason,
    Request,
    SamplingParams,
    StepOutput,
    Timings,
    TokenLogprob,
    Usage,
)

__all__ = [
    "Engine",
    "EngineStats",
    "FinishReason",
    "Request",
    "SamplingParams",
    "StepOutput",
    "Timings",
    "TokenLogprob",
    "Usage",
]

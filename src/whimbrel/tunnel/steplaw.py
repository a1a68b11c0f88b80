"""StepLaw's learning rate and batch for a model and a number of tokens (Li et al. 2025; the formulas are train.schedule's)."""

from dataclasses import dataclass

from whimbrel.errors import InvalidParameter
from whimbrel.train.schedule import step_law_batch, step_law_rate


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLaw:
    """What the law says."""

    rate: float
    """peak of a cosine that ends at 1e-5"""
    batch_tokens: float
    sequences: int
    """of the batch, to the nearest multiple (of two equally near ones the larger)"""


def predict(parameters: float, tokens: float, *, sequence: int = 4096, multiple: int = 16) -> StepLaw:
    """``parameters`` without embeddings. Raises InvalidParameter for numbers that are not positive."""
    if min(parameters, tokens, sequence, multiple) <= 0:
        raise InvalidParameter(
            f"steplaw: parameters {parameters:g}, tokens {tokens:g}, sequence {sequence} and multiple {multiple} "
            "must be positive"
        )
    batch = step_law_batch(round(tokens))
    count = int(batch / sequence / multiple + 0.5) * multiple
    return StepLaw(
        rate=step_law_rate(round(parameters), round(tokens)), batch_tokens=batch, sequences=max(multiple, count)
    )

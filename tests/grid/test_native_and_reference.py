"""Native attention, dense and sparse, gives the reference's logits: as far as 8-bit kernels choose the same blocks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cells import CONTEXT, PROMPTS, SPARSE, TinyModel, bound

from whimbrel.engine import Engine, Request, SamplingParams
from whimbrel.formats.packed import pack
from whimbrel.ops import dispatch
from whimbrel.testing import tiny

MISSING = dispatch.get("attend").why_not("native")
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def prompt_scores(ops: str, family: str, attention: str, prompt: tuple[int, ...]) -> np.ndarray:
    """Log-probabilities of a prompt's tokens; bf16 weights natively, fp32 in the reference."""
    config = replace(tiny.config(family), sparse=SPARSE if attention == "sparse" else None)
    if ops == "native":
        params = tiny.params(config, matrix=lambda dense: pack(dense, "bf16", 0))
    else:
        params = tiny.params(config, matrix=torch.from_numpy, vector=torch.from_numpy)
    engine = Engine(TinyModel(config, params), ops=bound(ops), max_context=CONTEXT, num_blocks=8)
    engine.add(Request(token_ids=prompt, params=SamplingParams(max_tokens=0, prompt_logprobs=0)))
    scores = []
    while not engine.is_idle:
        scores += [entry.logprob for output in engine.step() for entry in output.prompt_logprobs]
    return np.array(scores)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_are_close(family: str) -> None:
    """A wrong mask, position or list gives differences above 1; another choice between near ties far less."""
    prompt = PROMPTS[4]
    native, reference = (prompt_scores(ops, family, "sparse", prompt) for ops in ("native", "reference"))
    dense = prompt_scores("reference", family, "dense", prompt)
    difference = np.abs(native - reference)
    assert np.mean(difference) < 0.05 and np.quantile(difference, 0.98) < 0.25
    assert np.abs(dense - reference)[260:].mean() > 2 * difference.mean()
    np.testing.assert_allclose(dense[:255], reference[:255], atol=1e-5)  # token 256 is the first with a list

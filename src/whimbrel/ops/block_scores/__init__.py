"""block_scores: how much each block matters to each token, by its semantic kernels (stage 1 and pooling of InfLLM v2).

    s[g, i]  = scale * q[t, g] . C[i]                  for the v kernels that end at or before the token's position p
    lse[g]   = logsumexp_i s[g, i]                     lse = "exact"
             = logsumexp_j scale * q[t, g] . C4[j]     lse = "coarse": C4[j] = mean(K[64 j : 64 j + 128]), those that end
                                                       at or before p; = mean of C[4 j + 0, 2, 4, 6]
    P[i]     = sum_g exp(s[g, i] - lse[g])             over the query heads g that share a key/value head; else 0
    score[b] = max P[i] over the kernels that overlap block b: i in [4 b - 1, 4 b + 3]; -inf where there is none
             = +inf                                    for the first ``init_blocks`` blocks
             = +inf                                    for p's block and the ``window_size / 64`` before it

``estimator`` = "signs" puts another P in the place of the pooled one. Averages hide single keys among 31 others, so each
key keeps a bit per channel of what it is beyond its average, mixed so that no channel has most of it:

    c        = C[2 j], the semantic kernel that covers key i: tokens 32 j ... 32 j + 31
    x        = (K[i] - c) R                            R: D x D, orthogonal: the cosine transform (DCT-II, scaled to
                                                       orthogonal), row r times +1 or -1 by bit 15 of 48271^(r + 1) mod (2^31 - 1)
    k~[i]    = c + a (sgn x) R^T,  a = |x|^2 / |x|_1   sgn 0 = 1; x . (a sgn x) = |x|^2
    e[g, b]  = log sum over the keys i of block b of exp(scale * q[t, g] . k~[i])
    score[b] = sum_g exp(e[g, b] - log sum_{b' before p's own block} exp e[g, b'])

for whole blocks; a block that is stored only in part has no code and scores +inf. Forcing as above. With D = 64 a code
takes 10 bytes a token (the factor in bf16), the semantic kernels 4, key and value in bf16 256. Measured where nothing was
trained for it (SmolLM2-135M, half of the blocks): of 10 needles signs keep 10 and kernels 6, and 4,096 tokens have a
perplexity 0.07% and 0.9% above dense.

For: looking at the selection (``eval sparsity``, tests); ``select_blocks`` does the same without writing scores out.
In: ``q`` [T, H, D], rotated; ``inputs``; ``cache``, whose semantic kernels are up to date; ``sparse``; ``rope`` for
``use_nope``.
Out: [G, T, max_blocks of this step] fp32; blocks beyond a token's own are -inf.
May not: let a row depend on other rows. All rows are scored, whatever ``dense_len`` says.
Accumulation: fp32. Not differentiable. Without a visible coarse kernel (p < 127) P is 0: such blocks are all local.
Native and Triton have "kernels" only.
Source: InfLLM-V2 (2025), section 3.2; MiniCPM4 technical report, section 2.2. Signs of a mixed residual, and their factor:
RaBitQ (Gao and Long, 2024).
"""

from typing import Any

from whimbrel.ops.dispatch import Op

OP = Op.of(__name__)


def block_scores(
    q: Any,
    inputs: Any,
    cache: Any,
    layer: int,
    *,
    scale: float,
    sparse: Any,
    rope: Any | None = None,
    impl: str = "auto",
) -> Any:
    """Scores of all blocks for all tokens; the module's docstring is the specification."""
    run = OP.choose(impl, q, cache, sparse)
    return run(q, inputs, cache, layer, scale=scale, sparse=sparse, rope=rope)

"""Near-ties are told from mistakes by the sides' own difference."""

import math

from whimbrel.bench.agree import compare
from whimbrel.bench.side import Scores


def scores(*leads: float, flip: int | None = None) -> Scores:
    """At every place token 1 leads token 2 by ``leads``; at ``flip`` the order is listed the other way round."""
    rows = [((1, -1.0), (2, -1.0 - lead)) for lead in leads]
    return Scores(
        logprobs=(-1.0,) * len(rows), top=tuple(row[::-1] if i == flip else row for i, row in enumerate(rows))
    )


def test_equal_tokens_agree() -> None:
    found = compare([1, 1], [1, 1], scores(1.0, 2.0), scores(1.1, 2.0))
    assert found.agrees
    assert found.first_divergence is None
    assert math.isclose(found.noise, 0.1, rel_tol=1e-6)


def test_a_divergence_below_the_noise_is_a_near_tie() -> None:
    found = compare([1, 2, 9], [1, 1, 1], scores(1.3, -0.2, 1.0), scores(1.0, 0.25, 1.0))
    assert found.first_divergence == 1
    assert found.lead == 0.25
    assert found.agrees


def test_a_divergence_above_the_noise_is_a_mistake() -> None:
    found = compare([1, 2, 9], [1, 1, 1], scores(1.1, -0.9, 1.0), scores(1.0, 0.9, 1.0))
    assert not found.agrees


def test_the_place_in_question_does_not_excuse_itself() -> None:
    found = compare([2], [1], scores(-5.0), scores(5.0))
    assert found.noise == 0.0
    assert not found.agrees


def test_different_tokens_of_the_text_never_agree() -> None:
    assert not compare([1], [1], scores(1.0), scores(1.0), tokens_equal=False).agrees


def test_a_token_that_one_side_does_not_even_list_is_no_small_noise() -> None:
    mine = Scores(logprobs=(-1.0, -1.0), top=(((7, -1.0), (8, -2.0)), ((1, -1.0), (2, -2.0))))
    assert compare([1, 1], [1, 1], mine, scores(1.0, 1.0)).noise == math.inf

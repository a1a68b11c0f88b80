"""Loss to score: the sigmoid comes back from points that follow it, predicts real larger models, and refuses what it can't."""

from pathlib import Path

import numpy as np
import pytest

from whimbrel.errors import FormatError, UsageError
from whimbrel.tunnel.olmo import TASKS, is_olmo, olmo_losses, olmo_points
from whimbrel.tunnel.score_points import Point, last, read_points, settled
from whimbrel.tunnel.sigmoid import Sigmoid, balance, fit_sigmoid

RECORDED = Path(__file__).parents[1] / "recorded" / "olmo_ladder.csv"
OLMO = Path(__file__).parents[2].parent / "shared" / "data" / "olmo_ladder"
LARGER = {"7B", "13B"}
TRUE = Sigmoid(c=0.7, gamma=-6.0, l=0.9, d=0.25)


def made(low: float, high: float, noise: float = 0.0) -> list[Point]:
    rng = np.random.default_rng(0)
    losses = np.linspace(high, low, 60)
    return [
        Point("t", f"m{i % 3}", f"r{i % 6}", i, float(x), float(TRUE(x) + noise * rng.standard_normal()))
        for i, x in enumerate(losses)
    ]


def test_the_curve_of_exact_points_is_found_again() -> None:
    fit = fit_sigmoid(made(0.5, 1.6), 0.25, resamples=0)
    found = (fit.curve.c, fit.curve.gamma, fit.curve.l, fit.curve.d)
    assert found == pytest.approx((0.7, -6.0, 0.9, 0.25), rel=1e-3)
    assert fit.curve.loss_of(0.6) == pytest.approx(0.9)


def test_the_band_holds_the_true_curve_and_widens_beyond_the_points() -> None:
    fit = fit_sigmoid(made(0.8, 1.6, 0.01), 0.25, resamples=40)
    low, high = fit.band(np.array([0.6, 1.0]))
    assert high[0] - low[0] > high[1] - low[1]
    assert low[1] - 0.01 <= TRUE(1.0) <= high[1] + 0.01


def test_points_at_chance_are_refused() -> None:
    with pytest.raises(UsageError, match="refused: the best scores"):
        fit_sigmoid(made(1.5, 3.0), 0.25, resamples=0)
    with pytest.raises(UsageError, match="at least 8"):
        fit_sigmoid(made(0.5, 1.6)[:5], 0.25)


def test_every_interval_of_the_score_weighs_the_same() -> None:
    weights = balance(np.array([0.0] * 90 + [1.0] * 10), 2)
    assert (weights[:90] ** 2).sum() == pytest.approx((weights[90:] ** 2).sum())


def test_larger_models_are_predicted_from_an_extract_of_the_ladder() -> None:
    points = read_points(RECORDED)
    for task, worst in {"hellaswag": 0.05, "arc_easy": 0.055}.items():
        mine = [point for point in points if point.task == task]
        fit = fit_sigmoid(settled([p for p in mine if p.model not in LARGER]), TASKS[task][1], resamples=0)
        held = last([p for p in mine if p.model in LARGER])
        assert {p.model for p in held} == LARGER
        for point in held:
            assert abs(fit.curve(point.loss) / point.score - 1) <= worst, (task, point.model)


@pytest.mark.skipif(not is_olmo(OLMO), reason=f"the OLMo ladder is not in {OLMO}")
def test_larger_models_are_predicted_from_the_whole_ladder() -> None:
    points = olmo_points(OLMO)
    easy = {"hellaswag", "arc_easy", "csqa", "mmlu_stem"}
    for task, (_, chance) in TASKS.items():
        mine = [point for point in points if point.task == task]
        fit = fit_sigmoid(settled([p for p in mine if p.model not in LARGER]), chance, resamples=0)
        for point in mine:
            if point.model in LARGER:
                assert abs(fit.curve(point.loss) / point.score - 1) <= (0.05 if task in easy else 0.11), (task, point)
    assert {point.model for point in olmo_losses(OLMO)} >= {"190M", "3B", "7B"}


def test_the_first_checkpoints_are_left_out_and_a_bad_file_names_its_line(tmp_path: Path) -> None:
    run = [Point("t", "m", "r", step, 1.0, 0.5) for step in range(20)]
    assert [p.step for p in settled(run)] == list(range(2, 20))
    assert [p.step for p in last(run)] == [19]
    path = tmp_path / "points.csv"
    path.write_text("task,model,run,step,loss,score\nt,m,r,0,1.0,0.5\nt,m,r,1,1.0,50\n")
    with pytest.raises(FormatError, match="point 2: .*score 50"):
        read_points(path)
    with pytest.raises(FormatError, match="no runs of the OLMo ladder"):
        olmo_points(tmp_path)

"""Curves by hand, their perfect order, intervals and refusals."""

import itertools

import numpy as np
import pytest
from unit_samples import make_experiment

from experiments_dagster.causal.units.uplift_curves import (
    area_interval,
    uplift_at_share,
    uplift_curve,
)
from experiments_dagster.stats.errors import EstimationError

KINDS = ("qini", "uplift")


def make_binary(n=2000, gain=0.3, seed=1):
    """Responders with a score that says who gains."""
    rng = np.random.default_rng(seed)
    score, t = rng.random(n), rng.random(n) < 0.5
    y = (rng.random(n) < 0.2 + gain * t * score).astype(float)
    return y, t, score


def test_curves_by_hand():
    y = [1, 0, 1, 1, 0, 0]
    t = [1, 0, 1, 0, 1, 0]
    qini = uplift_curve(y, t, [6, 5, 4, 3, 2, 1], kind="qini")
    assert qini.values == pytest.approx([0, 1, 1, 2, 2 - 2 / 2, 2 - 3 / 2, 1])
    assert qini.n_targeted.tolist() == [0, 1, 2, 3, 4, 5, 6]
    # Trapezoids 0.5 + 1 + 1.5 + 1.5 + 0.75 + 0.75 = 6, less 6·1/2, over 36.
    assert qini.area_minus_random_per_n2 == pytest.approx(3 / 36)
    uplift = uplift_curve(y, t, [6, 5, 4, 3, 2, 1], kind="uplift")
    assert uplift.values == pytest.approx([0, 1, 2, 3, (1 - 1 / 2) * 4, (2 / 3 - 1 / 2) * 5, 2])


def test_points_stand_only_where_the_score_changes():
    y, t, score = make_binary()
    coarse = uplift_curve(y, t, np.floor(4 * score), kind="qini")
    assert len(coarse.values) == 5
    order = np.random.default_rng(1).permutation(len(y))
    again = uplift_curve(y[order], t[order], np.floor(4 * score)[order], kind="qini")
    assert again.area_minus_random_per_n2 == pytest.approx(coarse.area_minus_random_per_n2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_score_has_no_area_and_a_reversed_one_the_negative(kind):
    y, t, score = make_binary()
    assert uplift_curve(y, t, np.ones(len(y)), kind=kind).area_minus_random_per_n2 == 0
    up, down = (uplift_curve(y, t, s, kind=kind) for s in (score, -score))
    assert up.area_minus_random_per_n2 > 0 > down.area_minus_random_per_n2
    assert up.end == down.end
    monotone = uplift_curve(y, t, np.exp(5 * score), kind=kind)
    assert monotone.normalised_area == up.normalised_area


@pytest.mark.parametrize("kind", KINDS)
def test_the_perfect_order_has_normalised_area_one(kind):
    y, t, _ = make_binary(n=400)
    perfect = 2.0 * (y == t) + t
    assert uplift_curve(y, t, perfect, kind=kind).normalised_area == pytest.approx(1)


def test_no_grouping_beats_the_perfect_order():
    """Every order of the four kinds of unit, each a score of four levels."""
    y, t, _ = make_binary(n=400)
    kinds = (2 * y + t).astype(int)
    areas = [
        uplift_curve(y, t, np.array(levels)[kinds], kind="qini").normalised_area
        for levels in itertools.permutations(range(4))
    ]
    assert max(areas) == pytest.approx(1)


def test_definitions_are_named_and_differ():
    y, t, score = make_binary()
    qini, uplift = (uplift_curve(y, t, score, kind=kind) for kind in KINDS)
    assert "Radcliffe" in qini.definition
    assert "Gutierrez" in uplift.definition
    assert "scikit-uplift" in qini.normalisation
    assert qini.normalised_area != pytest.approx(uplift.normalised_area, rel=0.01)


def test_amounts_have_an_area_but_no_perfect_order():
    y, t, x, _ = make_experiment(heterogeneity=0.7)
    curve = uplift_curve(y, t, x[:, 0], kind="qini")
    assert curve.normalised_area is None
    assert "0/1" in curve.normalised_reason
    assert curve.area_minus_random_per_n2 > 0
    limits = area_interval(y, t, x[:, 0], kind="qini", seed=1, replicates=200)
    assert limits.normalised_low is None
    assert limits.area_low > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_excludes_zero_for_a_score_that_ranks_and_not_for_noise(kind):
    y, t, score = make_binary()
    good = area_interval(y, t, score, kind=kind, seed=1, replicates=200)
    estimate = uplift_curve(y, t, score, kind=kind)
    assert 0 < good.area_low < estimate.area_minus_random_per_n2 < good.area_high
    assert 0 < good.normalised_low < estimate.normalised_area < good.normalised_high
    assert good.n_undefined == 0
    noise = np.random.default_rng(5).random(len(y))
    bad = area_interval(y, t, noise, kind=kind, seed=1, replicates=200)
    assert bad.area_low < 0 < bad.area_high
    assert area_interval(y, t, score, kind=kind, seed=1, replicates=200) == good


def test_the_interval_has_the_width_of_the_estimates():
    areas, widths = [], []
    for seed in range(60):
        y, t, score = make_binary(n=1000, seed=seed)
        areas.append(uplift_curve(y, t, score, kind="qini").area_minus_random_per_n2)
        if seed < 10:
            limits = area_interval(y, t, score, kind="qini", seed=1, replicates=200)
            widths.append(limits.area_high - limits.area_low)
    # 60 estimates know their sd to 9 %; a percentile of 200 replicates to as much.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(areas, ddof=1), rel=0.3)


def test_the_top_share_of_all_and_of_each_arm():
    y, t, score = make_binary()
    for share_of in ("overall", "by_group"):
        top = uplift_at_share(y, t, score, share=0.3, share_of=share_of)
        assert top.ci_low < 0.3 * 0.85 < top.ci_high
        assert top.n_control + top.n_treatment == pytest.approx(600, abs=1)
    everybody = uplift_at_share(y, t, score, share=1.0)
    assert everybody.estimate == pytest.approx(y[t].mean() - y[~t].mean())
    assert (
        uplift_at_share(y[:100], t[:100], score[:100], share=0.29).n_control
        + (uplift_at_share(y[:100], t[:100], score[:100], share=0.29).n_treatment)
        == 29
    )


def test_refusals():
    y, t, score = make_binary(n=100)
    with pytest.raises(EstimationError) as caught:
        uplift_at_share(y, t, score, share=0.02)
    assert caught.value.code == "N_TOO_SMALL"
    with pytest.raises(EstimationError) as caught:
        uplift_curve(y, np.ones(100), score, kind="qini")
    assert caught.value.code == "EMPTY_ARM"
    with pytest.raises(EstimationError) as caught:
        uplift_at_share(np.ones(100), t, score, share=0.5)
    assert caught.value.code == "ZERO_VARIANCE"
    holed = score.copy()
    holed[4] = np.nan
    with pytest.raises(EstimationError) as caught:
        uplift_curve(y, t, holed, kind="qini")
    assert caught.value.code == "NON_FINITE_INPUT"
    few = np.r_[1, np.zeros(99)].astype(bool)
    few[1] = True
    with pytest.raises(EstimationError) as caught:
        area_interval(y, few, score, kind="qini", seed=1, replicates=100)
    assert caught.value.code == "N_TOO_SMALL"
    with pytest.raises(ValueError, match="share"):
        uplift_at_share(y, t, score, share=0)
    with pytest.raises(ValueError, match="replicates"):
        area_interval(y, t, score, kind="qini", seed=1, replicates=10)
    with pytest.raises(ValueError, match="shape"):
        uplift_curve(y, t, score[:-1], kind="qini")

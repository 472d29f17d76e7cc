"""What decided effects say together; pure."""

import math

import pytest

from experiments_dagster.portfolio.chart import shrinkage_chart
from experiments_dagster.portfolio.decided import DecidedArm
from experiments_dagster.portfolio.pooling import pool_by_metric
from experiments_dagster.stats.meta_analysis import pool_studies
from experiments_dagster.stats.shrinkage import EffectPrior, learn_prior

LIFTS = (0.05, -0.02, 0.08, 0.01, -0.04, 0.03)


def decided(experiment, estimate=0.05, *, arm="treatment", **changes):
    fields = {
        "metric": "spend",
        "direction": "increase",
        "verdict": "SHIP",
        "is_shipped": True,
        "is_study": True,
        "look_id": f"{experiment}.1.1",
        "as_of": "2026-03-01T00:00:00+00:00",
        "std_error": 0.02,
        "n_units": 1000,
        "own_prior": EffectPrior(name="default", mean=0.0, tau2=0.0025, n_effects=0),
    }
    return DecidedArm(experiment=experiment, arm=arm, estimate=estimate, **fields | changes)


def experiments(n):
    return [decided(f"e{k}", lift) for k, lift in enumerate(LIFTS[:n])]


def test_five_experiments_teach_a_prior():
    (metric,) = pool_by_metric(experiments(6))
    prior = learn_prior(LIFTS, [0.02] * 6)
    assert metric.prior == prior
    assert prior.name == "reml_zero_mean"
    for one, lift in zip(metric.arms, LIFTS, strict=True):
        assert one.shrunk.estimate == pytest.approx(lift * prior.tau2 / (prior.tau2 + 0.02**2))
        assert one.shrunk.raw_estimate == lift


def test_four_experiments_keep_the_priors_of_their_plans():
    arms = experiments(3)
    own = EffectPrior(name="declared", mean=0.0, tau2=0.0004, n_effects=0)
    arms.append(decided("e3", 0.02, own_prior=own))
    (metric,) = pool_by_metric(arms)
    assert metric.prior is None
    assert [one.prior.name for one in metric.arms] == ["default"] * 3 + ["declared"]
    assert metric.arms[3].shrunk.estimate == pytest.approx(0.01)


def test_the_mean_over_experiments_and_what_the_next_may_show():
    (metric,) = pool_by_metric(experiments(6))
    expected = pool_studies(LIFTS, [0.02**2] * 6)
    assert metric.pooled.estimate == pytest.approx(expected.estimate)
    assert metric.pooled.prediction_high == pytest.approx(expected.prediction_high)
    assert metric.pooled.interval == "hartung_knapp"


def test_arms_that_share_a_control_are_one_study():
    arms = experiments(5)
    second = decided("e0", 0.5, arm="other", is_study=False, is_shipped=False)
    (with_it,), (without,) = pool_by_metric([*arms, second]), pool_by_metric(arms)
    assert with_it.n_experiments == without.n_experiments == 5
    assert with_it.pooled == without.pooled
    assert with_it.prior == without.prior
    assert len(with_it.arms) == 6


def test_only_shipped_effects_are_added_and_only_within_a_metric():
    arms = [
        decided("a", 0.04),
        decided("b", 0.08),
        decided("c", 0.5, is_shipped=False, verdict="INCONCLUSIVE"),
        decided("d", 0.2, metric="orders"),
        decided("e", -0.1, metric="latency", is_shipped=False),
    ]
    spend, orders, latency = pool_by_metric(arms)
    weight = 0.0025 / (0.0025 + 0.0004)
    assert spend.shipped.estimate == pytest.approx(weight * 0.12)
    assert spend.shipped.std_error == pytest.approx(math.sqrt(2 * weight) * 0.02)
    assert (spend.shipped.n_effects, orders.shipped.n_effects) == (2, 1)
    assert latency.shipped is None
    assert orders.pooled.flag == "ONE_STUDY"


def test_what_cannot_be_pooled_has_a_reason():
    (metric,) = pool_by_metric([decided(name, 0.05) for name in "abc"])
    assert (metric.pooled, metric.pooled_reason) == (None, "ZERO_VARIANCE")
    assert pool_by_metric([]) == []


@pytest.mark.parametrize("width", [780, 400])
def test_the_picture_shows_raw_beside_shrunk(width):
    (metric,) = pool_by_metric([*experiments(6), decided("<odd>", 3.0, std_error=4.0)])
    drawing = shrinkage_chart(metric.arms, title="Lift of spend", width=width)
    assert drawing.count("<circle") == 14
    assert "&lt;odd&gt;" in drawing
    assert "<odd>" not in drawing
    assert "raw +5.00%, shrunk" in drawing

"""Broken twins: wrong analyses whose size must fall outside the band (METHODS 14.12).

Each stands beside the right analysis of the same draws where that is not in
`test_calibration_estimators`. A band that none of these leaves would prove nothing.
"""

import math

import numpy as np
import pytest

from experiments_dagster.stats.calibration import (
    calibrate,
    permuted_p_values,
    rejection_band,
    rejection_ceiling,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import two_sided_p_value
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.units.quantile import compare_quantiles
from experiments_dagster.stats.moments import ArmMoments

COOKIE = 44_700


@pytest.mark.parametrize(
    ("replicates", "low", "high"),
    [(1000, 0.0365, 0.0635), (2000, 0.0404, 0.0596), (4000, 0.0432, 0.0568)],
)
def test_bands_are_those_of_the_protocol(replicates, low, high):
    found = rejection_band(0.05, replicates, band_alpha=0.05)
    assert found == pytest.approx((low, high), abs=5.1e-5)  # four printed digits
    assert rejection_ceiling(0.05, replicates) < high


def test_refusals_neither_reject_nor_disappear():
    def refusing(rows, arms):
        assert (np.diff(rows) > 0).all()  # the order of arrival
        assert np.bincount(arms).tolist() == [3, 2, 2]
        if rows[0] == 0:
            raise EstimationError("ZERO_VARIANCE", "y")
        return None if rows[0] == 1 else 0.0

    p = permuted_p_values({"p": refusing}, n_units=9, arm_sizes=(3, 2, 2), replicates=200, seed=1)[
        "p"
    ]
    result = calibrate("p", p)
    assert 0 < result.rejections < 200
    assert result.refused == np.isnan(p).sum() == 200 - result.rejections
    with pytest.raises(ValueError, match="more than the 9 there are"):
        permuted_p_values({}, n_units=9, arm_sizes=(5, 5), replicates=1, seed=1)
    with pytest.raises(ValueError, match="replicates is 0"):
        calibrate("p", [])


@pytest.mark.parametrize(
    ("rejections", "is_exact", "is_at_most"),
    [(67, False, True), (68, True, True), (117, True, False), (133, False, False)],
)
def test_both_ends_of_a_band_count(rejections, is_exact, is_at_most):
    p = np.repeat([0.01, 0.5], [rejections, 2000 - rejections])
    assert calibrate("p", p).is_calibrated is is_exact
    assert calibrate("p", p, is_conservative=True).is_calibrated is is_at_most


@pytest.fixture
def outside(replicates, show):
    """Run wrong tests, and right ones beside them, on permuted labels."""

    def run(wrong, *, n_units, arms, seed, right=()):
        p_values = permuted_p_values(
            {**wrong, **dict(right)},
            n_units=n_units,
            arm_sizes=arms,
            replicates=replicates,
            seed=seed,
        )
        rates = {}
        for name, p in p_values.items():
            size = calibrate(name, p)
            if name in wrong:
                verdict = "MISSED" if size.is_calibrated else "outside, as it must be"
                show(size, units=min(arms), verdict=verdict)
                assert not size.is_calibrated, size
            else:
                show(size, units=min(arms))
                assert size.is_calibrated, size
            rates[name] = size.rate
        return rates

    return run


def welch(control, treatment):
    arms = ArmMoments.from_arrays(y=control), ArmMoments.from_arrays(y=treatment)
    return compare_means(*arms).difference.p_value


def split(y, rows, arms):
    return y[rows[arms == 0]], y[rows[arms == 1]]


@pytest.mark.slow
def test_peeking_at_the_fixed_level(outside, cookie):
    """Five looks in order of arrival, each at .05: .142."""
    y, per_arm = cookie["log_rounds"], 1000

    def smallest(rows, arms):
        control, treatment = split(y, rows, arms)
        ends = np.arange(1, 6) * per_arm // 5
        return min(welch(control[:end], treatment[:end]) for end in ends)

    def last(rows, arms):
        return welch(*split(y, rows, arms))

    rates = outside(
        {"peeking at 5 looks": smallest},
        right={"the last look alone": last},
        n_units=COOKIE,
        arms=(per_arm, per_arm),
        seed=60,
    )
    assert rates["peeking at 5 looks"] > 0.11


@pytest.mark.slow
def test_rows_of_randomised_clusters(outside, hillstrom):
    """Cells of customers are drawn, customers are analysed, as sessions of users would be."""
    cell, history = hillstrom["cell"], hillstrom["history"]

    def drawn(rows, arms):
        arm_of = np.empty(594, dtype=np.int64)
        arm_of[rows] = arms
        return arm_of[cell]

    def rows_as_units(rows, arms):
        arm = drawn(rows, arms)
        return welch(history[arm == 0], history[arm == 1])

    def quantile(rows, arms):
        result = compare_quantiles(history, drawn(rows, arms), q=0.5)
        return result.contrast.difference.p_value

    outside(
        {"row-level variance": rows_as_units, "quantile of rows without clusters": quantile},
        n_units=594,
        arms=(297, 297),
        seed=61,
    )


@pytest.mark.slow
def test_users_counted_twice(outside, cookie):
    y = cookie["log_rounds"]

    def twice(rows, arms):
        return welch(*split(y, np.repeat(rows, 2), np.repeat(arms, 2)))

    def some(rows, arms):
        # Users who came back are joined twice.
        times = 1 + (cookie["retention_7"][rows] > 0) * 2
        return welch(*split(y, np.repeat(rows, times), np.repeat(arms, times)))

    outside(
        {"every user twice": twice, "users who came back three times": some},
        n_units=COOKIE,
        arms=(500, 500),
        seed=62,
    )


@pytest.mark.slow
def test_a_cap_of_its_own_for_each_arm(outside, cookie):
    rounds = cookie["sum_gamerounds"]
    frozen = np.quantile(rounds, 0.99)

    def own(rows, arms):
        return welch(*(np.minimum(y, np.quantile(y, 0.99)) for y in split(rounds, rows, arms)))

    def common(rows, arms):
        return welch(*(np.minimum(y, frozen) for y in split(rounds, rows, arms)))

    outside(
        {"cap per arm at 99 %": own},
        right={"frozen cap": common},
        n_units=COOKIE,
        arms=(5000, 5000),
        seed=63,
    )


@pytest.mark.slow
def test_a_ratio_with_the_baseline_of_the_first_look(outside, cookie):
    """The treatment raises both parts at an equal ratio; the error grows with the units."""
    numerator, denominator = cookie["capped_rounds"], cookie["active_days"]
    twice = 1.0 + (np.random.default_rng(64).random(COOKIE) < 1 / 3)
    rates = []
    for per_arm in (5000, 20_000):

        def parts(rows, arms):
            factor = np.where(arms == 1, twice[rows], 1.0)
            return [
                [(column[rows] * factor)[arms == arm] for column in (numerator, denominator)]
                for arm in (0, 1)
            ]

        def frozen(rows, arms):
            (n0, d0), (n1, d1) = parts(rows, arms)
            first = slice(500)
            baseline = n0[first].sum() / d0[first].sum()
            return welch((n0 - baseline * d0) / d0.mean(), (n1 - baseline * d1) / d0.mean())

        found = outside(
            {"ratio baseline of the first look": frozen},
            n_units=COOKIE,
            arms=(per_arm, per_arm),
            seed=65,
        )
        rates.append(found["ratio baseline of the first look"])
    assert rates[1] > rates[0]


@pytest.mark.slow
def test_one_variance_for_unequal_arms(outside, cookie):
    """The treatment doubles the spread around an unchanged mean, in the smaller or larger arm."""
    y = cookie["log_rounds"]
    centre = y.mean()

    def arms_of(rows, arms):
        control, treatment = split(y, rows, arms)
        return control, centre + 2 * (treatment - centre)

    def student(rows, arms):
        control, treatment = arms_of(rows, arms)
        n0, n1 = len(control), len(treatment)
        df = n0 + n1 - 2
        pooled = ((n0 - 1) * control.var(ddof=1) + (n1 - 1) * treatment.var(ddof=1)) / df
        t = (treatment.mean() - control.mean()) / math.sqrt(pooled * (1 / n0 + 1 / n1))
        return two_sided_p_value(t, df)

    for sizes in ((1000, 250), (250, 1000)):
        outside(
            {f"Student, arms of {sizes[0]} and {sizes[1]}": student},
            right={
                f"Welch, arms of {sizes[0]} and {sizes[1]}": lambda *a: welch(*arms_of(*a)),
            },
            n_units=COOKIE,
            arms=sizes,
            seed=66,
        )


@pytest.mark.slow
def test_any_of_several_metrics_or_arms(outside, cookie):
    metrics = ("retention_1", "retention_7", "log_rounds", "capped_rounds")

    def any_metric(rows, arms):
        return min(welch(*split(cookie[name], rows, arms)) for name in metrics)

    def any_arm(rows, arms):
        control, *treatments = (cookie["log_rounds"][rows[arms == arm]] for arm in range(4))
        return min(welch(control, treatment) for treatment in treatments)

    outside({"any of 4 metrics": any_metric}, n_units=COOKIE, arms=(1000, 1000), seed=67)
    outside({"any of 3 treatments": any_arm}, n_units=COOKIE, arms=(300,) * 4, seed=68)

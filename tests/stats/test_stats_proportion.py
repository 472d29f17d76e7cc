import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.proportion import (
    compare_proportions,
    contingency_chi_square,
    newcombe_interval,
    wald_interval,
    wilson_interval,
)
from experiments_dagster.stats.methods.moments.score_interval import score_interval
from experiments_dagster.stats.moments import ArmMoments

REFERENCE = [
    ("cookie_cats", ["retention_1", "retention_7"]),
    ("hillstrom_half_mens", ["visit", "conversion"]),
    ("hillstrom_half_womens", ["visit", "conversion"]),
]

counts = st.integers(1, 80).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def ones(x, n):
    return ArmMoments(
        n=int(n), columns=("y",), means=np.array([x / n]), cross=np.array([[x * (1 - x / n)]])
    )


@pytest.mark.parametrize(("case", "columns"), REFERENCE)
def test_reference_proportions(reference, two_arms, arm, case, columns):
    expected = reference("fixed", case)
    frames = two_arms(case)
    for column in columns:
        numbers = expected.expected[f"prop_{column}"]
        control, treatment = (arm(frame, column) for frame in frames)
        result = compare_proportions(control, treatment).difference
        four = (numbers["x_control"], control.n, numbers["x_treat"], treatment.n)
        table = [[four[0], four[1] - four[0]], [four[2], four[3] - four[2]]]
        plain, corrected = contingency_chi_square(table), contingency_chi_square(table, yates=True)
        for name, value in {
            "x_control": round(control.n * result.control_mean),
            "x_treat": round(treatment.n * result.treatment_mean),
            "diff": result.estimate,
            "z_pooled": result.estimate / result.std_error,
            "p": result.p_value,
            "chi2": plain.statistic,
            "p_chi2": plain.p_value,
            "chi2_yates": corrected.statistic,
            "p_yates": corrected.p_value,
            "wald_ci": list(wald_interval(*four)),
            "newcombe_ci": list(newcombe_interval(*four)),
        }.items():
            expected.check(value, numbers[name])


def test_reference_chi_square_of_three_arms(reference, dataset):
    expected = reference("fixed", "hillstrom_half_multiarm")
    frame = dataset("uplift/hillstrom_half.parquet")
    table = frame.group_by("segment").agg(
        visits=pl.col("visit").sum(), others=(1 - pl.col("visit")).sum()
    )
    result = contingency_chi_square(table.select("visits", "others").to_numpy())
    expected.check(result.statistic, expected.expected["chi2_visit"]["chi2"])
    expected.check(result.p_value, expected.expected["chi2_visit"]["p"])
    assert result.degrees_of_freedom == expected.expected["chi2_visit"]["df"]


@pytest.mark.parametrize("metric", ["gross_conversion", "net_conversion", "retention"])
def test_reference_udacity_totals(reference, metric):
    expected = reference("sequential", "udacity_free_trial")
    numbers = expected.expected[metric]
    result = compare_proportions(
        ones(int(numbers["x_control"]), int(numbers["n_control"])),
        ones(int(numbers["x_treat"]), int(numbers["n_treat"])),
    ).difference
    expected.check(result.estimate, numbers["diff"])
    expected.check(result.std_error, numbers["se_pooled"])
    expected.check(result.estimate / result.std_error, numbers["z"])
    expected.check(result.p_value, numbers["p"])


@pytest.mark.parametrize(
    ("metric", "successes", "trials"),
    [
        ("gross_conversion", "enrollments", "clicks"),
        ("net_conversion", "payments", "clicks"),
        ("retention", "payments", "enrollments"),
    ],
)
def test_reference_udacity_by_day(reference, dataset, metric, successes, trials):
    expected = reference("sequential", "udacity_free_trial")
    frame = dataset("sequential/udacity_free_trial_daily.csv").drop_nulls()
    control, treatment = (
        frame.filter(pl.col("group") == name).select(pl.col(successes, trials).cum_sum()).rows()
        for name in ("control", "experiment")
    )
    z = []
    for left, right in zip(control, treatment, strict=True):
        result = compare_proportions(ones(*left), ones(*right)).difference
        z.append(result.estimate / result.std_error)
    expected.check(z, expected.expected[metric]["cumulative_z_by_day"])


@given(counts, counts, st.sampled_from([0.01, 0.05, 0.2]))
def test_p_value_below_alpha_exactly_when_the_score_interval_excludes_zero(
    control, treatment, alpha
):
    assume(0 < control[0] + treatment[0] < control[1] + treatment[1])
    result = compare_proportions(ones(*control), ones(*treatment), alpha=alpha).difference
    assume(abs(result.p_value - alpha) > 1e-9)
    assert (result.p_value < alpha) == (result.ci_low > 0 or result.ci_high < 0)
    assert -1 <= result.ci_low <= result.estimate <= result.ci_high <= 1


@given(counts, counts)
def test_score_interval_swaps_with_the_arms(control, treatment):
    assume(0 < control[0] + treatment[0] < control[1] + treatment[1])
    low, high = score_interval(*control, *treatment)
    assert score_interval(*treatment, *control) == pytest.approx((-high, -low), abs=1e-7)


@given(counts, counts)
def test_score_limits_maximise_the_likelihood(control, treatment):
    """At a limit the restricted z equals the quantile, p̃ found here by a search."""
    from scipy.optimize import minimize_scalar

    assume(0 < control[0] < control[1] and 0 < treatment[0] < treatment[1])
    (xc, nc), (xt, nt) = control, treatment
    for limit in score_interval(xc, nc, xt, nt):

        def loss(p, d=limit):
            return -(
                stats.binom.logpmf(xc, nc, p) + stats.binom.logpmf(xt, nt, min(max(p + d, 0), 1))
            )

        bounds = (max(0.0, -limit) + 1e-12, min(1.0, 1 - limit) - 1e-12)
        p = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        q = p + limit
        z = (xt / nt - xc / nc - limit) / np.sqrt(p * (1 - p) / nc + q * (1 - q) / nt)
        assert abs(z) == pytest.approx(1.959964, abs=2e-3)


def test_wilson_is_that_of_statsmodels():
    from statsmodels.stats.proportion import proportion_confint

    for x, n in [(0, 10), (3, 10), (10, 10), (500, 1000)]:
        live = proportion_confint(x, n, method="wilson")
        assert wilson_interval(x, n) == pytest.approx(live, abs=1e-12)


def test_empty_cells():
    low, high = newcombe_interval(0, 20, 0, 30)
    assert low < 0 < high
    result = compare_proportions(ones(0, 20), ones(20, 20)).difference
    assert result.estimate == result.ci_high == 1
    assert compare_proportions(ones(0, 20), ones(5, 20)).relative_reason == "ZERO_DENOMINATOR"


def test_not_estimable(arm):
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        compare_proportions(ones(0, 5), ones(0, 5))
    with pytest.raises(EstimationError, match="EMPTY_ARM"):
        compare_proportions(arm([]), ones(1, 5))
    with pytest.raises(EstimationError, match="EMPTY_ARM"):
        wilson_interval(0, 0)
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        contingency_chi_square([[0, 5], [0, 5]])


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.0, 2.0], [0.3, 1.0, 0.0]])
def test_other_values_are_not_a_proportion(arm, values):
    with pytest.raises(ValueError, match="zeros and ones"):
        compare_proportions(arm(values), arm([0.0, 1.0]))

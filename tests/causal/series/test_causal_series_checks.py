"""Each refutation of a time-series design fires on its fault and is silent on a clean case."""

from dataclasses import replace

import numpy as np
import pytest
from donor_factories import make_panel

from experiments_dagster.causal.series.augmented_control import augmented_control_effect
from experiments_dagster.causal.series.donor_checks import check_treated_donors
from experiments_dagster.causal.series.impact import estimate_impact
from experiments_dagster.causal.series.placebo import placebo_in_time
from experiments_dagster.causal.series.placebo_rank import rank_placebos
from experiments_dagster.causal.series.series_checks import (
    check_bias_alarm,
    check_covariate_breaks,
    check_drop_last_pre,
    check_leave_one_covariate_out,
    check_placebo_in_time,
    check_post_length,
    check_post_period_leak,
    check_pre_fit,
)
from experiments_dagster.causal.series.series_effect import effect_of_impact
from experiments_dagster.causal.series.series_sensitivity import (
    covariate_breaks,
    drop_last_pre,
    leave_one_covariate_out,
)
from experiments_dagster.causal.series.synthetic_did import synthetic_did_effect
from experiments_dagster.stats.errors import EstimationError

NAMES = ["a", "b"]


def verdict(outcome):
    return outcome.name, outcome.passed, outcome.severity


def impact(observed, covariates, n_pre=100):
    return estimate_impact(observed, covariates, n_pre, min_pre_points=30, n_draws=400, seed=1)


def total(observed, covariates):
    return impact(observed, covariates).total.estimate


def placebos(observed, covariates):
    return placebo_in_time(observed, covariates, 250, min_pre_points=40)


def long_series(series, **changes):
    return series(**({"n_pre": 250, "n_post": 10} | changes))


def test_placebo_in_time(series):
    clean = check_placebo_in_time(placebos(*long_series(series, effect=5.0)))
    assert verdict(clean) == ("placebo_in_time", True, "WARN")
    assert clean.value == pytest.approx(1 / 21)
    fault = check_placebo_in_time(placebos(*long_series(series)))
    assert verdict(fault) == ("placebo_in_time", False, "ERROR")
    assert "found where nothing happened" in fault.message
    few = check_placebo_in_time(rank_placebos(9.0, {30: 1.0, 40: -2.0, 50: 0.5}, 10))
    assert verdict(few) == ("placebo_in_time", False, "WARN")
    assert few.message.endswith("3 placebos are too few for p below 0.05")
    # Two windows that share no step are no level of .4, though p is below it; four are.
    lucky = check_placebo_in_time(rank_placebos(9.0, {30: 1.0, 40: -2.0}, 10), alpha=0.4)
    assert verdict(lucky) == ("placebo_in_time", False, "WARN")
    assert "only 2 windows share no step" in lucky.message
    four = rank_placebos(9.0, {30: 1.0, 40: -2.0, 50: 1.5, 60: 0.5}, 10)
    assert check_placebo_in_time(four, alpha=0.4).passed


def test_ranks_are_those_of_the_series_placebos(series):
    found = placebos(*long_series(series))
    effects = dict(zip(found.positions.tolist(), found.effects.tolist(), strict=True))
    again = rank_placebos(found.effect, effects, 10)
    for name in ("p_value", "sign_p_value", "is_one_sided", "n_disjoint", "warnings"):
        assert getattr(again, name) == getattr(found, name)


def test_bias_alarm(series):
    observed, covariates = long_series(series, p=0)
    clean = check_bias_alarm(placebos(observed, covariates))
    assert verdict(clean) == ("bias_alarm", True, "WARN")
    drifting = check_bias_alarm(placebos(observed + 1e-3 * np.arange(260.0) ** 2, covariates))
    assert verdict(drifting) == ("bias_alarm", False, "ERROR")
    assert drifting.message.startswith("20 of 20 placebo effects are positive")
    mostly = {10 * k: 1.0 for k in range(1, 20)} | {200: -1.0}
    outcome = check_bias_alarm(rank_placebos(5.0, mostly, 10))
    assert verdict(outcome) == ("bias_alarm", False, "WARN")
    assert outcome.value < 0.01
    five = {10 * k: 1.0 for k in range(1, 6)}
    assert check_bias_alarm(rank_placebos(5.0, five, 10)).passed
    six = five | {60: 1.0}
    assert verdict(check_bias_alarm(rank_placebos(5.0, six, 10)))[1:] == (False, "ERROR")
    # The same six over windows of which three are separate may agree by chance.
    crowded = check_bias_alarm(rank_placebos(5.0, six, 20))
    assert verdict(crowded)[1:] == (False, "WARN")
    assert "too few separate windows" in crowded.message


def test_pre_fit(series):
    clean = impact(*series(noise="independent", p=2))
    outcome = check_pre_fit(clean)
    assert verdict(outcome) == ("pre_fit", True, "WARN")
    assert check_pre_fit(effect_of_impact("impact", clean)) == outcome
    fault = check_pre_fit(impact(*series(p=0)))
    assert verdict(fault) == ("pre_fit", False, "WARN")
    assert "explains little" in fault.message
    # A jump inside the last fifth of the pre period: the back-test misses its total.
    observed, covariates = series(p=2)
    observed[85:] += 8.0
    missed = check_pre_fit(impact(observed, covariates))
    assert not missed.passed
    assert "missed the total" in missed.message
    effect = effect_of_impact("impact", clean)
    wavy = replace(effect, fit=replace(effect.fit, acf=(-0.7, *effect.fit.acf[1:])))
    assert check_pre_fit(wavy).message.endswith("correlated above 0.6")


def test_leave_one_covariate_out(series):
    observed, covariates = series(p=2, effect=4.0)
    result = leave_one_covariate_out(total, observed, covariates, names=NAMES)
    assert [refit.left_out for refit in result.refits] == NAMES
    assert result.refits[0].effect == pytest.approx(total(observed, covariates[:, 1:]))
    outcome = check_leave_one_covariate_out(result)
    assert verdict(outcome) == ("leave_one_covariate_out", True, "WARN")
    # The "effect" is the fall of one covariate, which the outcome does not follow.
    observed, covariates = series(p=2)
    covariates[100:, 0] -= 5.0
    hanging = check_leave_one_covariate_out(
        leave_one_covariate_out(total, observed, covariates, names=NAMES)
    )
    assert verdict(hanging) == ("leave_one_covariate_out", False, "WARN")
    assert hanging.value > hanging.threshold == 0.5
    assert "without a: it hangs on it" in hanging.message


def test_drop_last_pre(series):
    observed, covariates = series(p=2, effect=4.0)
    result = drop_last_pre(total, observed, covariates, 100)
    assert [refit.left_out for refit in result.refits] == [f"last {n} steps" for n in (7, 14, 21)]
    hidden = observed.copy()
    hidden[93:100] = np.nan
    assert result.refits[0].effect == pytest.approx(total(hidden, covariates))
    assert not np.isnan(observed).any()
    assert verdict(check_drop_last_pre(result)) == ("drop_last_pre", True, "WARN")
    # Two weeks that dip before the intervention make the recovery look like an effect.
    observed, covariates = series(p=2)
    observed[86:100] -= 6.0
    fault = check_drop_last_pre(drop_last_pre(total, observed, covariates, 100))
    assert verdict(fault) == ("drop_last_pre", False, "WARN")


def test_covariate_breaks(series):
    _, covariates = series(p=2)
    clean = covariate_breaks(covariates, 100, names=NAMES, min_pre_points=30, seed=1)
    assert verdict(check_covariate_breaks(clean)) == ("covariate_breaks", True, "WARN")
    covariates[100:, 1] += 8.0
    broken = covariate_breaks(covariates, 100, names=NAMES, min_pre_points=30, seed=1)
    outcome = check_covariate_breaks(broken)
    assert verdict(outcome) == ("covariate_breaks", False, "WARN")
    assert "(b)" in outcome.message
    assert broken[1].change.estimate == pytest.approx(8.0, abs=2.0)
    # Holm: the smaller of two p-values counts twice.
    assert broken[1].p_adjusted == pytest.approx(2 * broken[1].p_value)


def test_covariates_break_as_often_as_the_level_says(series):
    """Null covariates of AR(.7) noise: the family of two is flagged at most at its level."""
    runs = 60
    flagged = 0
    for seed in range(runs):
        _, covariates = series(p=2, seed=[seed, 41])
        found = covariate_breaks(covariates, 100, names=NAMES, min_pre_points=30, seed=seed)
        flagged += not check_covariate_breaks(found).passed
    # 99.9 % one-sided band of 5 % in 60 runs.
    assert flagged / runs <= 0.05 + 3.1 * np.sqrt(0.05 * 0.95 / runs)


def test_post_length():
    assert verdict(check_post_length(100, 30)) == ("post_length", True, "WARN")
    fault = check_post_length(30, 30)
    assert verdict(fault) == ("post_length", False, "WARN")
    assert fault.message.endswith("the forecast rests on little history")


def test_post_period_leak(series):
    observed, covariates = series(p=2)

    def forecast(outcome):
        return impact(outcome, covariates).counterfactual

    clean = check_post_period_leak(forecast, observed, 100)
    assert verdict(clean) == ("post_period_leak", True, "ERROR")
    assert clean.value == 0

    def regression_on_everything(outcome):
        design = np.column_stack([np.ones(130), covariates])
        return design @ np.linalg.lstsq(design, outcome, rcond=None)[0]

    fault = check_post_period_leak(regression_on_everything, observed, 100)
    assert verdict(fault) == ("post_period_leak", False, "ERROR")
    assert "reads the period that it should predict" in fault.message


@pytest.mark.parametrize(
    "method", [synthetic_did_effect, augmented_control_effect], ids=["sdid", "asc"]
)
def test_no_donor_method_leaks(method):
    panel = make_panel()

    def expected_of(outcome):
        outcomes = panel.outcomes.copy()
        outcomes[:, 0] = outcome
        return outcome - method(replace(panel, outcomes=outcomes))

    assert check_post_period_leak(expected_of, panel.outcomes[:, 0], 40).value < 1e-10


def test_treated_donors():
    at = np.array([40.0, np.inf, 48.0, 47.0, np.nan])
    clean = check_treated_donors(at, [1, 2], 48)
    assert verdict(clean) == ("treated_donors", True, "ERROR")
    fault = check_treated_donors(at, [1, 2, 3, 4], 48)
    assert verdict(fault) == ("treated_donors", False, "ERROR")
    assert fault.message == "2 of 4 donors are treated within the 48 steps: leave them out"


def test_what_cannot_be_judged_is_no_passed_check(series):
    observed, covariates = series(p=1)

    def only_whole(observed, covariates):
        if np.isnan(observed).any() or not covariates.shape[1]:
            raise EstimationError("N_TOO_SMALL", "method", "needs everything")
        return 1.0

    without = leave_one_covariate_out(only_whole, observed, covariates, names=["a"])
    hidden = drop_last_pre(only_whole, observed, covariates, 100, n_dropped=[3])
    constant = covariate_breaks(np.ones((130, 1)), 100, names=["a"], min_pre_points=30, seed=1)
    judge = (
        lambda: check_leave_one_covariate_out(without),
        lambda: check_drop_last_pre(hidden),
        lambda: check_covariate_breaks(constant),
        lambda: check_covariate_breaks([]),
    )
    for run, code in zip(
        judge, ("N_TOO_SMALL", "N_TOO_SMALL", "ZERO_VARIANCE", "N_TOO_SMALL"), strict=True
    ):
        with pytest.raises(EstimationError, match="none with an estimate") as caught:
            run()
        assert caught.value.code == code
    some = replace(without, refits=(*without.refits, replace(without.refits[0], effect=1.1)))
    assert "1 refits not estimable" in check_leave_one_covariate_out(some).message
    nothing = check_leave_one_covariate_out(replace(some, full_effect=0.0))
    assert (nothing.passed, nothing.value) == (False, None)


def test_senseless_calls_raise(series):
    observed, covariates = series(p=2)
    with pytest.raises(ValueError, match="a name of its own"):
        leave_one_covariate_out(total, observed, covariates, names=["a", "a"])
    with pytest.raises(ValueError, match="from 1 to 99"):
        drop_last_pre(total, observed, covariates, 100, n_dropped=[100])

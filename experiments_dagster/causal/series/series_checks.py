"""Refutations of a time-series design as health checks: what fails blocks or weakens the claim.

ERROR blocks, WARN weakens. The placebo checks serve donor designs as well. METHODS 11.1, 11.12.

    fit before           one-step R² of at least 0.25, no autocorrelation above 0.6 among lags 1..7,
                         and a forecast of the last pre points that covers their total
    fragile              a refit changes the sign or more than half of the effect

References:
    Abadie, Diamond & Hainmueller 2015; Brodersen et al. 2015, section 4; Phipson & Smyth 2010.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experiments_dagster.causal.outcomes import judged
from experiments_dagster.causal.series.records import FloatArray, ImpactResult, PlaceboResult
from experiments_dagster.causal.series.series_effect import SeriesEffect, effect_of_impact
from experiments_dagster.causal.series.series_sensitivity import CovariateBreak, SeriesSensitivity
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import CheckOutcome

MIN_R2 = 0.25
MAX_ABS_ACF = 0.6
FEWEST_FOR_ALARM = 6
# Windows that share steps lean alike by chance. On 60 null series each of independent, AR(.7) and
# local-level noise 20 placebos had one sign in 0 to 3 % with 4 disjoint windows among them, and in
# 5 to 12 % with 2: too often to block.
FEWEST_DISJOINT = 4
# Placebo windows share the fitted steps, so the sign test must be far out to count.
SIGN_P = 0.01
FRAGILE_CHANGE = 0.5
BREAK_P = 0.05
# What a fit that reads the same numbers may differ by, over the spread of the outcome.
SAME_FIT = 1e-9


def check_placebo_in_time(placebo: PlaceboResult, *, alpha: float = 0.05) -> CheckOutcome:
    """Block an effect no larger than what the method finds where nothing happened.

    Too few placebos for p below `alpha` weaken the claim where none is as large. So do fewer than
    4 windows that share no step: placebos that overlap rank together, and p is luck.
    """
    n = len(placebo.effects)
    n_as_large = int((abs(placebo.effects) >= abs(placebo.effect)).sum())
    is_rare, is_separate = placebo.p_value < alpha, placebo.n_disjoint >= FEWEST_DISJOINT
    if is_rare:
        against = f"only {placebo.n_disjoint} windows share no step, too few for this p to count"
    elif n_as_large:
        against = "the same is found where nothing happened"
    else:
        against = f"{n} placebos are too few for p below {alpha:g}"
    return judged(
        "placebo_in_time",
        passed=is_rare and is_separate,
        severity="ERROR" if n_as_large and not is_rare else "WARN",
        value=placebo.p_value,
        threshold=alpha,
        shown=(
            f"effect {placebo.effect:.4g}, {n_as_large} of {n} placebos as large, "
            f"p = {placebo.p_value:.3g}"
        ),
        against=against,
    )


def check_bias_alarm(placebo: PlaceboResult) -> CheckOutcome:
    """Block where all placebo effects lean one way, warn where most do.

    Fewer than 4 windows that share no step can only warn: they lean alike by chance.
    """
    n, n_positive = len(placebo.effects), int((placebo.effects > 0).sum())
    is_alarm = placebo.is_one_sided and n >= FEWEST_FOR_ALARM
    is_blocked = is_alarm and placebo.n_disjoint >= FEWEST_DISJOINT
    return judged(
        "bias_alarm",
        passed=not is_alarm and placebo.sign_p_value >= SIGN_P,
        severity="ERROR" if is_blocked else "WARN",
        value=placebo.sign_p_value,
        threshold=SIGN_P,
        shown=(
            f"{n_positive} of {n} placebo effects are positive, {placebo.n_disjoint} windows "
            "share no step"
        ),
        against=(
            "the method is biased on this series"
            if is_blocked or not is_alarm
            else "a sign of bias, from too few separate windows to tell"
        ),
    )


def check_pre_fit(result: ImpactResult | SeriesEffect) -> CheckOutcome:
    """Warn where the counterfactual does not follow the series before the intervention."""
    effect = effect_of_impact("impact", result) if isinstance(result, ImpactResult) else result
    largest = max(abs(value) for value in effect.fit.acf)
    covers = effect.extra.get("backtest_covers_total")
    faults = [
        fault
        for fault, is_found in (
            (f"it explains little, need {MIN_R2:g}", effect.fit.r2 < MIN_R2),
            (f"its errors are correlated above {MAX_ABS_ACF:g}", largest > MAX_ABS_ACF),
            ("it missed the total of the last points before the intervention", covers is False),
        )
        if is_found
    ]
    return judged(
        "pre_fit",
        passed=not faults,
        severity="WARN",
        value=effect.fit.r2,
        threshold=MIN_R2,
        shown=f"R² before the intervention {effect.fit.r2:.3g}, largest |acf| {largest:.3g}",
        against=" and ".join(faults),
    )


def check_leave_one_covariate_out(result: SeriesSensitivity) -> CheckOutcome:
    """Warn where one covariate makes the effect."""
    return _fragile("leave_one_covariate_out", result)


def check_drop_last_pre(result: SeriesSensitivity) -> CheckOutcome:
    """Warn where the last steps before the intervention make the effect."""
    return _fragile("drop_last_pre", result)


def check_covariate_breaks(breaks: Sequence[CovariateBreak]) -> CheckOutcome:
    """Warn where a covariate changes at the intervention itself: it may be touched by it."""
    p_values = {row.name: row.p_adjusted for row in breaks if row.p_adjusted is not None}
    if not p_values:
        reasons = [row.reason for row in breaks if row.reason is not None]
        raise _none("covariate_breaks", reasons, f"{len(breaks)} covariates")
    worst = min(p_values, key=lambda name: p_values[name])
    n_missing = len(breaks) - len(p_values)
    return judged(
        "covariate_breaks",
        passed=p_values[worst] >= BREAK_P,
        severity="WARN",
        value=p_values[worst],
        threshold=BREAK_P,
        shown=(
            f"smallest adjusted p {p_values[worst]:.3g} of {len(p_values)} covariates ({worst})"
            + (f", {n_missing} not estimable" if n_missing else "")
        ),
        against="it changed at the intervention, which may have touched it",
    )


def check_post_period_leak(
    expected_of: Callable[[FloatArray], FloatArray], observed: FloatArray, n_pre: int
) -> CheckOutcome:
    """Block a counterfactual that reads what the intervention changed.

    The outcome after the intervention is replaced by another one; the counterfactual must stay.

    Args:
        expected_of: From the outcome of the treated, shape (n,), to its counterfactual by the whole
            method, all else fixed. For a donor design the outcome less `effect_of` of the panel
            with that outcome in the treated column.
        observed: That outcome; NaN is a missing value.
        n_pre: Number of steps before the intervention.
    """
    spread = float(np.nanstd(observed)) or 1.0
    other = np.array(observed, dtype=np.float64)
    # A level and a slope, so that a fit to either shows.
    other[n_pre:] += spread * (10 + np.arange(len(other) - n_pre))
    moved = float(np.abs(expected_of(other) - expected_of(observed)).max()) / spread
    return judged(
        "post_period_leak",
        passed=moved <= SAME_FIT,
        severity="ERROR",
        value=moved,
        threshold=SAME_FIT,
        shown=f"another outcome after the intervention moves the counterfactual {moved:.2g} sd",
        against="it reads the period that it should predict",
    )


def check_post_length(n_pre: int, n_post: int) -> CheckOutcome:
    """Warn where the forecast is longer than its history."""
    return judged(
        "post_length",
        passed=n_post < n_pre,
        severity="WARN",
        value=float(n_post),
        threshold=float(n_pre),
        shown=f"{n_post} steps after the intervention, {n_pre} before",
        against="the forecast rests on little history",
    )


def _fragile(name: str, result: SeriesSensitivity) -> CheckOutcome:
    change = result.largest_change
    effects = {r.left_out: r.effect for r in result.refits if r.effect is not None}
    if not effects:
        reasons = [refit.reason for refit in result.refits if refit.reason is not None]
        raise _none(name, reasons, f"{len(result.refits)} refits")
    worst = max(effects, key=lambda left_out: abs(effects[left_out] - result.full_effect))
    n_missing = len(result.refits) - len(effects)
    return judged(
        name,
        # A change of sign is one of more than the whole effect.
        passed=change is not None and change <= FRAGILE_CHANGE,
        severity="WARN",
        value=change,
        threshold=FRAGILE_CHANGE,
        shown=(
            f"effect {result.full_effect:.4g}, {effects[worst]:.4g} without {worst}"
            + (f", {n_missing} refits not estimable" if n_missing else "")
        ),
        against="it hangs on it",
    )


def _none(name: str, reasons: Sequence[str], tried: str) -> EstimationError:
    code = reasons[0] if reasons else "N_TOO_SMALL"
    return EstimationError(code, name, f"{tried}, none with an estimate")

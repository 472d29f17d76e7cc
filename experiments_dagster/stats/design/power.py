"""Sample size, power and detectable effect of comparisons of means (METHODS 6.1, 6.3).

With κ = n_T/n_C, z_a = z_{1−α/sides} and z_b = z_{1−β}:

    z      n_C = (z_a + z_b)²(σ_C² + σ_T²/κ)/δ²          MDE = (z_a + z_b)√(σ_C²/n_C + σ_T²/n_T)
    t      noncentral t, ncp = δ/√(σ_C²/n_C + σ_T²/n_T), df = n_C + n_T − 2
    ratio  σ² = (s_N² + R² s_D² − 2R s_ND)/D̄² from history over the planned window, then as means
    anova  k groups of n: ncp = k n f², noncentral F with k − 1 and k(n − 1) degrees of freedom

Allocation, adjustments and what may be left out: `power_solver`. Proportions do not belong here
(`proportion_power`), nor the power of a whole decision rule (`rule_power`).

References:
    Cohen 1988; Deng, Knoblich & Lu 2018 for ratios.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from scipy.special import betaincinv, ncfdtr, nctdtr, stdtrit

from experiments_dagster.stats.design.power_solver import (
    MIN_PER_GROUP,
    PowerAnalysis,
    PowerDesign,
    PowerLaw,
    absolute_effect,
    check_field,
    normal_power,
    quantile_sum,
    solve,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import upper_quantile
from experiments_dagster.stats.methods.moments.ratio import check_denominator
from experiments_dagster.stats.moments import ArmMoments

MeanFormula = Literal["z", "t"]


def mean_power(
    *,
    sd: float,
    effect: float | None = None,
    relative_effect: float | None = None,
    power: float | None = None,
    n_total: float | None = None,
    baseline: float | None = None,
    sd_treatment: float | None = None,
    formula: MeanFormula = "z",
    design: PowerDesign | None = None,
) -> PowerAnalysis:
    """Solve one of effect, power and n_total for a difference of means.

    Args:
        sd: Standard deviation of the metric between units, in control.
        effect: Absolute effect, of either sign; a solved one is positive.
        relative_effect: In place of `effect`, as a share of `baseline`.
        power: 1 − β.
        n_total: Units in all groups together.
        baseline: Mean of control; needed for relative effects only.
        sd_treatment: Where it differs from `sd`.
        formula: `z` (closed form) or `t` (noncentral t).
        design: Level, sides, shares and adjustments.

    Raises:
        ValueError: Not exactly one quantity is left out, or a field is outside its range.
        EstimationError: ZERO_VARIANCE, or NOT_IDENTIFIED where no size can give the power.

    References:
        METHODS 6.1; R `power.t.test` for `t`.

    Examples:
        >>> result = mean_power(sd=1, effect=1, power=0.9, formula="t")
        >>> result.n_per_group, round(result.n_exact[0], 4)
        ((23, 23), 22.0211)
        >>> round(mean_power(sd=10, n_total=1000, power=0.8).effect, 4)
        1.7719
    """
    design = design or PowerDesign()
    sds = (sd, sd if sd_treatment is None else sd_treatment)
    for name, value in zip(("sd", "sd_treatment"), sds, strict=True):
        check_field(name, value, value >= 0, ">= 0")
    if sds == (0, 0):
        raise EstimationError("ZERO_VARIANCE", "power of a mean", "sd is 0")
    if formula not in get_args(MeanFormula):
        check_field("formula", formula, valid=False, rule=" or ".join(get_args(MeanFormula)))
    return solve(
        _mean_law(sds, formula, design),
        design,
        effect=absolute_effect(effect, relative_effect, baseline),
        power=power,
        n_total=n_total,
        baseline=baseline,
    )


def ratio_power(
    history: ArmMoments,
    *,
    numerator: str = "numerator",
    denominator: str = "denominator",
    effect: float | None = None,
    relative_effect: float | None = None,
    power: float | None = None,
    n_total: float | None = None,
    design: PowerDesign | None = None,
) -> PowerAnalysis:
    """Solve one of effect, power and n_total for a difference of ratios of totals.

    Args:
        history: Moments of numerator and denominator per unit over the planned window.
        numerator: Column of N.
        denominator: Column of D.
        effect: Absolute effect on the ratio.
        relative_effect: In place of `effect`, as a share of the ratio.
        power: 1 − β.
        n_total: Units in all groups together.
        design: Level, sides, shares and adjustments.

    Raises:
        ValueError: As `mean_power`.
        EstimationError: N_TOO_SMALL, ZERO_DENOMINATOR, NOT_IDENTIFIED, ZERO_VARIANCE.

    References:
        METHODS 6.3; Deng, Knoblich & Lu 2018.

    Examples:
        >>> history = ArmMoments.from_arrays(numerator=[1, 2, 0, 3], denominator=[2, 2, 1, 4])
        >>> ratio_power(history, relative_effect=0.1, power=0.8).n_per_group
        (259, 259)
    """
    ratio, sd = linearised_sd(history, numerator=numerator, denominator=denominator)
    return mean_power(
        sd=sd,
        effect=effect,
        relative_effect=relative_effect,
        power=power,
        n_total=n_total,
        baseline=ratio,
        design=design,
    )


def linearised_sd(
    history: ArmMoments, *, numerator: str = "numerator", denominator: str = "denominator"
) -> tuple[float, float]:
    """Return the ratio R and the standard deviation of (N − R·D)/D̄ between units.

    Raises:
        EstimationError: N_TOO_SMALL, ZERO_DENOMINATOR, or NOT_IDENTIFIED for negative denominators.
    """
    if history.n < MIN_PER_GROUP:
        raise EstimationError("N_TOO_SMALL", "history", f"{history.n} units, need 2")
    mean_denominator = history.mean(denominator)
    check_denominator(mean_denominator, "history")
    ratio = history.mean(numerator) / mean_denominator
    residual = history.combine({numerator: 1.0, denominator: -ratio}, name="residual")
    return ratio, math.sqrt(residual.variance("residual")) / mean_denominator


def anova_power(
    *,
    groups: int,
    effect: float | None = None,
    power: float | None = None,
    n_per_group: float | None = None,
    alpha: float = 0.05,
) -> PowerAnalysis:
    """Solve one of effect, power and group size for the F test of k equal groups.

    Args:
        groups: k, at least 2.
        effect: Cohen's f: standard deviation of the group means over that within groups.
        power: 1 − β.
        n_per_group: Units in each group.
        alpha: Level.

    Raises:
        ValueError: Not exactly one quantity is left out, or a field is outside its range.

    References:
        Cohen 1988, ch. 8; R `pwr.anova.test`.

    Examples:
        >>> round(anova_power(groups=5, effect=0.25, power=0.8).n_exact[0], 4)
        39.1534
    """
    check_field("groups", groups, groups >= MIN_PER_GROUP, ">= 2")
    # The omnibus test has no direction: both signs of every difference count.
    design = PowerDesign(alpha=alpha, sides=2, shares=(1 / groups,) * groups, strict=True)

    def power_at(cohen_f: float, n: float, _: float) -> float:
        df = (groups - 1, groups * (n - 1))
        # From the upper tail: F exceeds q where the beta variable df2/(df2 + df1·F) is below x.
        x = float(betaincinv(df[1] / 2, df[0] / 2, alpha))
        return 1 - float(ncfdtr(*df, groups * n * cohen_f**2, df[1] * (1 - x) / (df[0] * x)))

    return solve(
        PowerLaw(
            formula="anova_f",
            power=power_at,
            guess=lambda power, n, _: upper_quantile((1 - power) / 2) / math.sqrt(n),
        ),
        design,
        effect=effect,
        power=power,
        n_total=None if n_per_group is None else groups * n_per_group,
    )


def _mean_law(sds: tuple[float, float], formula: MeanFormula, design: PowerDesign) -> PowerLaw:
    root_factor = math.sqrt(design.adjustments.variance_factor)

    def std_error(n_control: float, n_treatment: float) -> float:
        # Without squares of sd, which overflow.
        parts = sds[0] / math.sqrt(n_control), sds[1] / math.sqrt(n_treatment)
        return root_factor * math.hypot(*parts)

    def z_power(effect: float, n_control: float, n_treatment: float) -> float:
        return normal_power(abs(effect) / std_error(n_control, n_treatment), 1, 1, design)

    def t_power(effect: float, n_control: float, n_treatment: float) -> float:
        ncp = abs(effect) / std_error(n_control, n_treatment)
        df = n_control + n_treatment - 2
        quantile = float(stdtrit(df, design.level))
        power = float(nctdtr(df, -ncp, quantile))
        if design.has_wrong_tail:
            wrong = float(nctdtr(df, ncp, quantile))
            # scipy has NaN for far tails; all of them are below 1e-12 of the other one.
            power += 0.0 if math.isnan(wrong) else wrong
        return power

    def z_effect(power: float, n_control: float, n_treatment: float) -> float:
        return quantile_sum(design, power) * std_error(n_control, n_treatment)

    def z_total(effect: float, power: float, control: float, treatment: float) -> float:
        root_n = quantile_sum(design, power) * (std_error(control, treatment) / abs(effect))
        return root_n * root_n

    name = design.name(formula)
    if formula == "t":
        return PowerLaw(formula=name, power=t_power, guess=z_effect)
    if design.has_wrong_tail:
        return PowerLaw(formula=name, power=z_power, guess=z_effect)
    return PowerLaw(formula=name, power=z_power, guess=z_effect, total=z_total, effect=z_effect)

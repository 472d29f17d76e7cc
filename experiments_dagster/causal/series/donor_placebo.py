"""Placebo in space: the same method on donors nothing happened to.

Each donor takes the place of the treated unit, the other donors (never the treated unit) form its
counterfactual, and units are compared by how much their gap grew:

    r_i = post-RMSPE_i / pre-RMSPE_i        p = (1 + #{r_i >= r}) / (1 + n),    never 0

Subtracting a constant effect τ from the treated outcome changes r only, so the same test inverts
in closed form: with m the fewest placebos at or above r for p >= α, r_(m) the m-th largest ratio
and e_t the treated gaps after the intervention,

    CI = mean(e) ± √((r_(m) · pre-RMSPE)² - Var(e))

empty where the gaps vary too much for any constant effect. The rank is a fair p when treatment
could as well have fallen on any unit. Placebo effects should scatter around 0: all of one sign is
the alarm for a biased method.

References:
    Abadie, Diamond & Hainmueller 2010, section 3.4; Firpo & Possebom 2018 for the interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from experiments_dagster.causal.series.donor_panel import (
    DonorPanel,
    IntArray,
    refuse_several_treated,
    rmspe,
)
from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite
from experiments_dagster.stats.errors import EstimationError

# Returns the effect at all T steps of a panel.
EffectOf = Callable[[DonorPanel], FloatArray]
# A pre-period fit below this share of the outcome's spread is interpolation, not a match.
EXACT_FIT = 1e-4
FEWEST_PLACEBOS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SpacePlacebo:
    """The treated unit among donors in its place.

    `effects`, shape (n, T), `average_effects`, `pre_rmspe` and `ratios` belong to the columns
    `donors`. `n_excluded` donors fit too poorly to be compared. The limits are of a constant
    effect, None with `ci_reason`: N_TOO_SMALL where no p can fall below α, NOT_IDENTIFIED where
    every constant effect is rejected. `sign_p_value` tests that placebo effects centre on 0 as if
    they were independent; `is_one_sided` says that all lean one way.
    """

    effect: FloatArray
    average_effect: float
    pre_rmspe: float
    ratio: float
    donors: IntArray
    effects: FloatArray
    average_effects: FloatArray
    pre_rmspes: FloatArray
    ratios: FloatArray
    p_value: float
    ci_low: float | None
    ci_high: float | None
    ci_reason: str | None
    confidence_level: float
    sign_p_value: float
    is_one_sided: bool
    n_excluded: int
    warnings: tuple[str, ...]

    def __post_init__(self) -> None:
        refuse_non_finite(self)


def placebo_in_space(
    panel: DonorPanel,
    effect_of: EffectOf,
    *,
    max_fit_ratio: float | None = None,
    alpha: float = 0.05,
) -> SpacePlacebo:
    """Rank the treated unit's growth of the gap among its donors'.

    Args:
        panel: One treated unit and its donors.
        effect_of: The whole method, such as `synthetic_control_effect` with its predictors. A
            choice made on the treated unit (predictor weights, penalty) must be made anew inside,
            or the treated unit fits better than its placebos by construction.
        max_fit_ratio: Leave out donors whose pre-RMSPE exceeds this multiple of the treated one's.
        alpha: 1 - confidence level of the interval.

    Raises:
        EstimationError: ZERO_DENOMINATOR (a pre period is fitted exactly, so its ratio says
            nothing), N_TOO_SMALL (fewer than 2 placebos); otherwise as `effect_of`.
        ValueError: Several treated units, or alpha or max_fit_ratio make no sense.
    """
    refuse_several_treated(panel, "placebo in space")
    if not 0 < alpha < 1 or not (max_fit_ratio is None or max_fit_ratio > 0):
        msg = f"alpha {alpha}, max_fit_ratio {max_fit_ratio}; need 0 < alpha < 1 and ratio > 0"
        raise ValueError(msg)
    effect = effect_of(panel)
    pre = _pre_rmspe(panel, effect)
    placebos = [panel.as_if_treated(int(donor)) for donor in panel.donors]
    effects = np.array([effect_of(placebo) for placebo in placebos])
    pres = np.array(
        [_pre_rmspe(placebo, gap) for placebo, gap in zip(placebos, effects, strict=True)]
    )
    is_kept = pres <= (np.inf if max_fit_ratio is None else max_fit_ratio * pre)
    n = int(is_kept.sum())
    if n < FEWEST_PLACEBOS:
        detail = f"{n} of {len(placebos)} donors fit well enough, need {FEWEST_PLACEBOS}"
        raise EstimationError("N_TOO_SMALL", "placebo in space", detail)
    effects, pres = effects[is_kept], pres[is_kept]
    after = effects[:, panel.n_pre :]
    ratios = np.sqrt(np.mean(after**2, axis=1)) / pres
    ratio = rmspe(effect[panel.n_pre :]) / pre
    low, high, reason = _invert(effect[panel.n_pre :], pre, ratios, alpha)
    averages = after.mean(axis=1)
    return SpacePlacebo(
        effect=effect,
        average_effect=float(effect[panel.n_pre :].mean()),
        pre_rmspe=pre,
        ratio=ratio,
        donors=panel.donors[is_kept],
        effects=effects,
        average_effects=averages,
        pre_rmspes=pres,
        ratios=ratios,
        p_value=(1 + int((ratios >= ratio).sum())) / (1 + n),
        ci_low=low,
        ci_high=high,
        ci_reason=reason,
        confidence_level=1 - alpha,
        sign_p_value=sign_test(averages),
        is_one_sided=bool((averages > 0).all() or (averages < 0).all()),
        n_excluded=len(placebos) - n,
        warnings=_warn(n, len(placebos) - n, max_fit_ratio, alpha),
    )


def sign_test(effects: FloatArray) -> float:
    """Return the two-sided p of as few effects on the rarer side of 0."""
    n, n_positive = len(effects), int((effects > 0).sum())
    rarer = min(n_positive, n - n_positive)
    tail: float = sum(math.comb(n, k) for k in range(rarer + 1)) / 2.0**n
    return min(1.0, 2 * tail)


def _pre_rmspe(panel: DonorPanel, effect: FloatArray) -> float:
    pre = rmspe(effect[: panel.n_fit])
    spread = float(panel.treated_path[: panel.n_fit].std())
    if pre <= EXACT_FIT * spread or pre == 0:
        detail = (
            f"column {panel.treated[0]} is fitted exactly on {panel.n_fit} steps by "
            f"{len(panel.donors)} donors; hint: a longer pre period, or fewer donors"
        )
        raise EstimationError("ZERO_DENOMINATOR", "pre-period error", detail)
    return pre


def _invert(
    gaps: FloatArray, pre: float, ratios: FloatArray, alpha: float
) -> tuple[float | None, float | None, str | None]:
    n = len(ratios)
    # p >= α takes this many placebos at or above; the small shift keeps α (1 + n) = whole exact.
    needed = math.ceil(alpha * (1 + n) - 1 - 1e-9)
    if needed <= 0:
        return None, None, "N_TOO_SMALL"
    bound = float(np.sort(ratios)[n - needed]) * pre
    half_squared = bound**2 - float(gaps.var())
    if half_squared < 0:
        return None, None, "NOT_IDENTIFIED"
    centre, half = float(gaps.mean()), math.sqrt(half_squared)
    return centre - half, centre + half, None


def _warn(n: int, n_excluded: int, max_fit_ratio: float | None, alpha: float) -> tuple[str, ...]:
    warnings = []
    if 1 / (1 + n) >= alpha:
        warnings.append(f"{n} placebos: p cannot fall below {1 / (1 + n):.2g}")
    if n_excluded:
        warnings.append(
            f"{n_excluded} donors with pre-period error above {max_fit_ratio:g} times the treated "
            "one's left out: p is a rank among the others"
        )
    return tuple(warnings)

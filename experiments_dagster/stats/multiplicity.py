"""Several hypotheses at once: adjusted p-values, selected intervals and the families of a plan.

Sorted p_(1) ≤ … ≤ p_(m), where m counts every hypothesis planned (METHODS section 4):

    Bonferroni   min(1, m p)
    Holm         max_{j≤i} (m−j+1) p_(j)              Hochberg   min_{j≥i} (m−j+1) p_(j)
    BH           min_{j≥i} m p_(j)/j                  BY         BH · Σ_{i≤m} 1/i
    weighted Bonferroni p/w,   weighted Holm max_{j≤i} p_(j) Σ_{l≥j} w_(l) / w_(j), ordered by p/w

all cut off at 1 at the end. A hypothesis that was planned and not computed counts as p = 1. Holm's
simultaneous intervals are not unique: show Bonferroni intervals beside Holm's p and say so.
An interval is never backed out of an adjusted p; selected results take `fcr_levels`.

What does not belong here: treatments that share a control (`dunnett`).

References:
    Holm 1979; Hochberg 1988; Benjamini & Hochberg 1995, 1997; Benjamini & Yekutieli 2001, 2005;
    Wang & Ramdas 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.stats.intervals import check_alpha

Method = Literal["bonferroni", "holm", "hochberg", "bh", "by"]
Family = Literal["success", "guardrail", "deterioration", "quality", "exploratory"]
Correction = Literal["none", "bonferroni", "holm", "bh", "e_bh"]

METHODS: tuple[Method, ...] = get_args(Method)

WEIGHT_SUM = 1e-6  # how far written weights, such as 0.333, may miss their sum of 1

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyDefault:
    """How a family of hypotheses is corrected unless the plan says otherwise.

    `correction` acts at a fixed horizon, `sequential_correction` at the looks of a sequential plan.
    `own_alpha` is the level a family has to itself; None where it takes the level of the plan.
    """

    correction: Correction
    sequential_correction: Correction
    own_alpha: float | None
    reason: str


FAMILIES: Mapping[Family, FamilyDefault] = MappingProxyType(
    {
        "success": FamilyDefault(
            correction="holm",
            sequential_correction="bonferroni",
            own_alpha=None,
            reason="any one may ship: union-intersection",
        ),
        "guardrail": FamilyDefault(
            correction="none",
            sequential_correction="none",
            own_alpha=None,
            reason="all must pass: intersection-union; power is raised instead",
        ),
        "deterioration": FamilyDefault(
            correction="bonferroni",
            sequential_correction="bonferroni",
            own_alpha=0.01,
            reason="a safety monitor must not eat the level of the success metrics",
        ),
        "quality": FamilyDefault(
            correction="none",
            sequential_correction="none",
            own_alpha=0.01,
            reason="each check has its level once over the whole experiment, not daily",
        ),
        "exploratory": FamilyDefault(
            correction="bh",
            sequential_correction="e_bh",
            own_alpha=None,
            reason="the share of false discoveries matters, not a single one",
        ),
    }
)


def adjusted_p_values(
    p_values: Sequence[float], method: Method, *, planned: int | None = None
) -> tuple[float, ...]:
    """Adjust p-values so that each can be held against the level of the whole family.

    Bonferroni, Holm and Hochberg control the chance of any false rejection (Hochberg under
    independence or positive dependence), BH and BY the expected share of false ones (BH under
    independence or positive dependence, BY always).

    Args:
        p_values: Each in 0..1, any order.
        method: One of `METHODS`.
        planned: Hypotheses planned; those beyond `p_values` count as p = 1. Default: all given.

    Returns:
        Adjusted p-values in the order of the input; equal p-values get equal ones.

    Raises:
        ValueError: A p-value outside 0..1 or NaN, an unknown method, or `planned` too small.

    References:
        Holm 1979; Hochberg 1988; Benjamini & Hochberg 1995; Benjamini & Yekutieli 2001.

    Examples:
        >>> adjusted_p_values([0.01, 0.02, 0.03], "holm")
        (0.03, 0.04, 0.04)
        >>> adjusted_p_values([0.01, 0.02, 0.03], "bonferroni", planned=10)
        (0.1, 0.2, 0.3)
    """
    if method not in METHODS:
        msg = f"method is {method!r}, need one of {', '.join(METHODS)}"
        raise ValueError(msg)
    p = _checked(p_values)
    given = len(p)
    m = given if planned is None else planned
    if m < given:
        msg = f"planned is {m}, need at least the {given} p-values given"
        raise ValueError(msg)
    p = np.concatenate([p, np.ones(m - given)])
    order = np.argsort(p, kind="stable")
    rank = np.arange(1, m + 1)
    if method in {"bonferroni", "holm"}:
        factor = np.full(m, float(m)) if method == "bonferroni" else m - rank + 1.0
        adjusted = np.maximum.accumulate(factor * p[order])
    else:
        factor = {"hochberg": m - rank + 1.0, "bh": m / rank, "by": m / rank * (1 / rank).sum()}[
            method
        ]
        adjusted = np.minimum.accumulate((factor * p[order])[::-1])[::-1]
    return _in_input_order(adjusted, order)[:given]


def weighted_bonferroni(p_values: Sequence[float], weights: Sequence[float]) -> tuple[float, ...]:
    """Return min(1, p/w): hypothesis i has the share w_i of the level to itself.

    Args:
        p_values: Each in 0..1.
        weights: One above 0 per p-value, summing to 1.

    Raises:
        ValueError: A p-value outside 0..1, or weights that are not positive or do not sum to 1.

    Examples:
        >>> [round(p, 6) for p in weighted_bonferroni([0.01, 0.02], [0.8, 0.2])]
        [0.0125, 0.1]
    """
    p = _checked(p_values)
    w = _checked_weights(weights, len(p))
    return _in_input_order(_ratio(p, w), np.arange(len(p)))


def weighted_holm(p_values: Sequence[float], weights: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's adjusted p-values where hypotheses weigh unequally.

    Ordered by p/w, step k holds p against α w/Σ(remaining w).

    Args:
        p_values: Each in 0..1.
        weights: One above 0 per p-value, summing to 1.

    Raises:
        ValueError: As `weighted_bonferroni`.

    References:
        Holm 1979, section 4; Benjamini & Hochberg 1997.

    Examples:
        >>> [round(p, 6) for p in weighted_holm([0.01, 0.02], [0.8, 0.2])]
        [0.0125, 0.02]
    """
    p = _checked(p_values)
    w = _checked_weights(weights, len(p))
    order = np.argsort(_ratio(p, w), kind="stable")
    remaining = np.cumsum(w[order][::-1])[::-1]
    return _in_input_order(np.maximum.accumulate(_ratio(p[order] * remaining, w[order])), order)


def fcr_levels(
    p_values: Sequence[float], *, q: float = 0.05, planned: int | None = None
) -> tuple[float | None, ...]:
    """Return the confidence level of each result that BH at `q` selects.

    Selecting R of m, each selected interval is made at level 1 − R q/m: the expected share of
    selected intervals that miss stays below q. Results not selected get None; their unadjusted
    interval is shown and labelled.

    Args:
        p_values: Each in 0..1.
        q: False discovery rate of the selection.
        planned: Hypotheses planned, as in `adjusted_p_values`.

    Raises:
        ValueError: As `adjusted_p_values`, or `q` outside (0, 1).

    References:
        Benjamini & Yekutieli 2005, JASA 100.

    Examples:
        >>> fcr_levels([0.001, 0.9, 0.01, 0.5], q=0.1)
        (0.95, None, 0.95, None)
    """
    check_alpha(q)
    selected = [p <= q for p in adjusted_p_values(p_values, "bh", planned=planned)]
    m = len(selected) if planned is None else planned
    return tuple(1 - sum(selected) * q / m if chosen else None for chosen in selected)


def e_bh(
    log_e_values: Sequence[float], *, q: float = 0.05, planned: int | None = None
) -> tuple[bool, ...]:
    """Select by e-values of one common time: the k largest, k = max{k: e_(k) ≥ m/(qk)}.

    The share of false discoveries is below `q` under any dependence. Not valid for running maxima.

    Args:
        log_e_values: ln E of each hypothesis; −∞ stands for E = 0.
        q: False discovery rate.
        planned: Hypotheses planned; those beyond `log_e_values` count as E = 0.

    Raises:
        ValueError: A NaN, or `q` or `planned` as in `fcr_levels`.

    References:
        Wang & Ramdas 2022, JRSS B 84.

    Examples:
        >>> e_bh([4.0, 0.0, 3.8], q=0.05)
        (True, False, True)
    """
    check_alpha(q)
    # BH on 1/e is the same rule: an e-value below 1 can never be selected.
    inverse = np.exp(-np.maximum(0.0, np.asarray(log_e_values, dtype=np.float64)))
    adjusted = adjusted_p_values(inverse.tolist(), "bh", planned=planned)
    return tuple(p <= q for p in adjusted)


def _checked(p_values: Sequence[float]) -> Vector:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        msg = f"p-values have shape {p.shape}, need (m,)"
        raise ValueError(msg)
    is_valid = (p >= 0) & (p <= 1)
    if not is_valid.all():
        position = int(np.argmin(is_valid))
        msg = f"p-value {position + 1} is {p[position]:g}, need 0..1"
        raise ValueError(msg)
    return p


def _checked_weights(weights: Sequence[float], m: int) -> Vector:
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (m,):
        msg = f"{w.size} weights for {m} p-values, need one each"
        raise ValueError(msg)
    if not (w > 0).all() or not abs(w.sum() - 1) <= WEIGHT_SUM:
        msg = f"weights {list(weights)} must be above 0 and sum to 1"
        raise ValueError(msg)
    return np.asarray(w / w.sum())


def _ratio(p: Vector, weights: Vector) -> Vector:
    with np.errstate(over="ignore"):
        return np.asarray(p / weights)


def _in_input_order(adjusted: Vector, order: NDArray[np.intp]) -> tuple[float, ...]:
    """Cut off at 1, after the running extremes, and undo the sorting."""
    result = np.empty(len(order))
    result[order] = np.minimum(1.0, adjusted)
    return tuple(result.tolist())

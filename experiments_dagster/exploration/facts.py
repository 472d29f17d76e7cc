"""Facts about columns of numbers: one number each, or the reason why there is none.

    skewness             (1/n) Σ ((y - ȳ)/s)³ with s² = (1/n) Σ (y - ȳ)²
    quantiles            linear interpolation between order statistics
    top_1pct_share       share of the total that the ⌈n/100⌉ largest values hold
    standardized difference   (m_T - m_C) / √((s_T² + s_C²)/2); of a share s² = p(1 - p)

A standardized difference does not grow with n, unlike a test of balance: 0.1 is the customary
limit. Only values from before exposure may be compared between arms here; everything else is about
all units together.

References:
    Austin 2009, Balance diagnostics for comparing baseline covariates, Statistics in Medicine 28.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

QUANTILES = {
    "p01": 0.01, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99,
}  # fmt: skip
TOP_SHARE = 0.01
MIN_UNITS_OF_TOP = 100
MIN_PAIRS = 3
BALANCE_LIMIT = 0.1
CONSTANT = 1e-12  # spread below this share of the size is rounding

Section = Literal[
    "units", "quality", "metrics", "exposures", "segments", "balance", "correlation", "derived"
]
Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One statistic of one subject; `value` is None exactly where `reason` or `text` says more."""

    section: Section
    subject: str
    statistic: str
    value: float | None = None
    level: str = ""
    text: str | None = None
    reason: str | None = None


def column_facts(section: Section, subject: str, values: Vector) -> Iterator[Fact]:
    """Describe one column.

    Args:
        section: Where the facts belong.
        subject: The column's name.
        values: Shape (n,); NaN is missing.
    """
    present = values[~np.isnan(values)]
    n, n_missing = len(present), len(values) - len(present)
    known: dict[str, float | str] = {
        "n": n,
        "n_missing": n_missing,
        "missing_share": n_missing / len(values) if len(values) else "N_TOO_SMALL",
        "zero_share": float((present == 0).mean()) if n else "N_TOO_SMALL",
    }
    for name, value in (known | _shape(present)).items():
        is_code = isinstance(value, str)
        yield Fact(
            section=section,
            subject=subject,
            statistic=name,
            value=None if is_code else float(value),
            reason=value if isinstance(value, str) else None,
        )


def _shape(values: Vector) -> dict[str, float | str]:
    """Location, spread, tails; a reason code where there is no number."""
    names = ["mean", "std_dev", "skewness", "min", *QUANTILES, "max", "top_1pct_share"]
    if not len(values):
        return dict.fromkeys(names, "N_TOO_SMALL")
    if not np.isfinite(values).all():
        return dict.fromkeys(names, "NON_FINITE_INPUT")
    mean = float(values.mean())
    spread = float(values.std())
    found: dict[str, float | str] = {
        "mean": mean,
        "std_dev": float(values.std(ddof=1)) if len(values) > 1 else "N_TOO_SMALL",
        "skewness": "ZERO_VARIANCE",
        "min": float(values.min()),
        **dict(zip(QUANTILES, np.quantile(values, [*QUANTILES.values()]).tolist(), strict=True)),
        "max": float(values.max()),
        "top_1pct_share": _top_share(values),
    }
    if spread > CONSTANT * max(abs(mean), float(np.abs(values).max())):
        found["skewness"] = float((((values - mean) / spread) ** 3).mean())
    return found


def _top_share(values: Vector) -> float | str:
    if len(values) < MIN_UNITS_OF_TOP:
        return "N_TOO_SMALL"
    if values.min() < 0:
        return "NOT_IDENTIFIED"
    total = values.sum()
    if total == 0:
        return "ZERO_DENOMINATOR"
    largest = np.partition(values, -(k := math.ceil(TOP_SHARE * len(values))))[-k:]
    return float(largest.sum() / total)


def correlation_facts(columns: dict[str, Vector]) -> Iterator[Fact]:
    """Pearson correlation of every pair of columns, over the units that have both."""
    names = list(columns)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            found = correlation(columns[one], columns[other])
            yield number_fact("correlation", one, "correlation", found, level=other)


def correlation(one: Vector, other: Vector) -> float | str:
    """Pearson correlation, or a reason code."""
    both = ~(np.isnan(one) | np.isnan(other))
    if both.sum() < MIN_PAIRS:
        return "N_TOO_SMALL"
    x, y = one[both], other[both]
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return "NON_FINITE_INPUT"
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
    if size <= CONSTANT * len(x) * float(np.abs(one[both]).max() * np.abs(other[both]).max()):
        return "ZERO_VARIANCE"
    return min(1.0, max(-1.0, float(x @ y) / size))


def balance_facts(
    subject: str, values: Vector, arms: NDArray[np.str_], order: Sequence[str]
) -> Iterator[Fact]:
    """Mean and spread by arm of a value from before exposure, and how far arms are apart.

    Args:
        subject: The column's name.
        values: Shape (n,); NaN is missing.
        arms: Arm of each unit, shape (n,).
        order: The arms; the control first.
    """
    groups = [values[(arms == arm) & ~np.isnan(values)] for arm in order]
    for k, (arm, group) in enumerate(zip(order, groups, strict=True)):
        yield number_fact("balance", subject, "n", float(len(group)), level=arm)
        is_finite = bool(np.isfinite(group).all())
        mean: float | str = "NON_FINITE_INPUT" if len(group) else "EMPTY_ARM"
        spread = mean
        if len(group) and is_finite:
            mean = float(group.mean())
            spread = float(group.std(ddof=1)) if len(group) > 1 else "N_TOO_SMALL"
        yield number_fact("balance", subject, "mean", mean, level=arm)
        yield number_fact("balance", subject, "std_dev", spread, level=arm)
        if k:
            apart = standardized_difference(groups[0], group)
            yield number_fact("balance", subject, "standardized_difference", apart, level=arm)


def standardized_difference(control: Vector, treated: Vector) -> float | str:
    """(m_T - m_C) / √((s_T² + s_C²)/2), or a reason code.

    Examples:
        >>> standardized_difference(np.array([1.0, 3.0]), np.array([2.0, 4.0]))
        0.7071067811865475
    """
    if not (len(control) and len(treated)):
        return "EMPTY_ARM"
    if min(len(control), len(treated)) < 2:  # noqa: PLR2004  a variance needs two
        return "N_TOO_SMALL"
    if not (np.isfinite(control).all() and np.isfinite(treated).all()):
        return "NON_FINITE_INPUT"
    pooled = math.sqrt((float(control.var(ddof=1)) + float(treated.var(ddof=1))) / 2)
    size = max(float(np.abs(control).max()), float(np.abs(treated).max()))
    if pooled <= CONSTANT * size:
        return "ZERO_VARIANCE"
    return float(treated.mean() - control.mean()) / pooled


def number_fact(
    section: Section, subject: str, statistic: str, value: float | str, *, level: str = ""
) -> Fact:
    """A number, or the reason code that stands for it."""
    return Fact(
        section=section,
        subject=subject,
        statistic=statistic,
        level=level,
        value=None if isinstance(value, str) else float(value),
        reason=value if isinstance(value, str) else None,
    )

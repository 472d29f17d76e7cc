"""What speaks against an effect: gates, placebos in time, columns and days left out.

REFUSED     every placebo effect has the same sign: the model is biased
WEAK        the interval includes 0, a gate or a refutation failed, or none was run
SUPPORTED   the interval excludes 0 and the refutations that ran did not fail
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments_dagster.causal.series.records import PlaceboResult
from experiments_dagster.causal.series.series_checks import FEWEST_DISJOINT
from experiments_dagster.causal.series.series_effect import SeriesEffect
from experiments_dagster.cli.impact.methods import (
    FEWEST_COLUMNS,
    SeriesTask,
    estimate,
    placebos,
)
from experiments_dagster.cli.impact.series_file import RegularSeries
from experiments_dagster.stats.errors import EstimationError

MIN_R2 = 0.25
MAX_ABS_ACF = 0.6
# Six placebos of one sign have a chance of 2 / 2^6 = 3 % under no bias.
FEWEST_FOR_ALARM = 6
LARGE_CHANGE = 0.5
DROPPED_LAST = {"D": (7, 14, 21), "W": (1, 2, 3)}

LEFT_OUT_COLUMNS = (
    *("left_out", "cum_effect", "cum_lower", "cum_upper"),
    *("relative_change", "is_large_change", "reason"),
)
DROPPED_COLUMNS = (
    *("dropped_periods", "cum_effect", "cum_lower", "cum_upper"),
    *("relative_change", "is_large_change", "reason"),
)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placebos:
    """Placebos of a request: a result, or the reason why there is none."""

    result: PlaceboResult | None
    reason: str | None
    rows: Sequence[Row] = ()

    @property
    def has_alarm(self) -> bool:
        """Whether enough placebo effects all have one sign."""
        result = self.result
        return (
            result is not None and result.is_one_sided and len(result.effects) >= FEWEST_FOR_ALARM
        )

    def document(self) -> dict[str, Any]:
        """As JSON."""
        result = self.result
        return {
            "p_value": result.p_value if result else None,
            "n_placebos": len(result.effects) if result else 0,
            "n_disjoint": result.n_disjoint if result else 0,
            "sign_p_value": result.sign_p_value if result else None,
            "bias_alarm": self.has_alarm,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The total effect without each column, and without the last periods before."""

    left_out: Sequence[Row]
    dropped_last: Sequence[Row]

    @property
    def large_changes(self) -> list[str]:
        """What changes the effect by half, or its sign."""
        found = [f"without {row['left_out']}" for row in self.left_out if row["is_large_change"]]
        return found + [
            f"without the last {row['dropped_periods']} periods before"
            for row in self.dropped_last
            if row["is_large_change"]
        ]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "leave_one_out": [dict(row) for row in self.left_out],
            "drop_last_pre": [dict(row) for row in self.dropped_last],
        }


def gate_warnings(*, r2_pre: float, max_abs_acf: float) -> list[str]:
    """Sentences on a poor fit before the intervention; none where it is good."""
    warnings = []
    if r2_pre < MIN_R2:
        warnings.append(
            f"r2_pre {r2_pre:.3g} is below {MIN_R2}: the model explains little of the pre period"
        )
    if max_abs_acf > MAX_ABS_ACF:
        warnings.append(
            f"max_abs_acf_1_to_7 {max_abs_acf:.3g} is above {MAX_ABS_ACF}: errors before the "
            "intervention are strongly correlated"
        )
    return warnings


def run_placebos(task: SeriesTask, series: RegularSeries) -> Placebos:
    """Placebos in time, with their dates and cumulative effects."""
    try:
        result = placebos(task)
    except EstimationError as error:
        return Placebos(result=None, reason=str(error))
    rows = [
        {"placebo_date": series.dates[step].isoformat(), "cum_effect": effect * series.n_post}
        for step, effect in zip(result.positions.tolist(), result.effects.tolist(), strict=True)
    ]
    return Placebos(result=result, reason=None, rows=rows)


def run_sensitivity(task: SeriesTask, effect: SeriesEffect) -> Sensitivity:
    """The total effect by the same method on less."""
    least = FEWEST_COLUMNS[task.request.method]
    left_out = []
    for column, name in enumerate(task.names):
        if len(task.names) > least:
            left_out.append({"left_out": name} | _row(task.without(column), effect))
        else:
            left_out.append({"left_out": name} | _no_row(f"the method needs {least} columns"))
    dropped = [
        {"dropped_periods": n} | _row(task.dropping(n), effect)
        for n in DROPPED_LAST[task.request.freq]
    ]
    return Sensitivity(left_out=left_out, dropped_last=dropped)


def claim(
    effect: SeriesEffect,
    *,
    gates: Sequence[str],
    placebo: Placebos | None,
    sensitivity: Sensitivity | None,
    alpha: float,
) -> dict[str, Any]:
    """The status of the claim and the sentences behind it."""
    against = list(gates)
    if effect.p_value >= alpha:
        against.append("the interval of the cumulative effect includes 0")
    if effect.extra.get("is_poor_fit"):
        against.append("the synthetic control does not track the outcome before the intervention")
    against += _placebo_reasons(placebo, alpha)
    if sensitivity is not None and sensitivity.large_changes:
        against.append(
            "changes by more than half or turns around " + ", ".join(sensitivity.large_changes)
        )
    if placebo is not None and placebo.has_alarm:
        alarm = "bias alarm: all placebo effects have one sign"
        return {"status": "REFUSED", "reasons": [alarm, *against]}
    return {"status": "WEAK" if against else "SUPPORTED", "reasons": against}


def _placebo_reasons(placebo: Placebos | None, alpha: float) -> list[str]:
    """What the placebos say against the effect."""
    if placebo is None or placebo.result is None:
        return ["not refuted: no placebo was estimated"]
    result = placebo.result
    n = len(result.effects)
    if result.p_value < alpha:
        if result.n_disjoint >= FEWEST_DISJOINT:
            return []
        few = f"only {result.n_disjoint} placebo windows share no step"
        return [f"{few}: too few for p {result.p_value:.3g} to count"]
    if result.p_value * (1 + n) < 1.5:  # noqa: PLR2004  rank 1: none is as large
        return [f"no placebo effect is as large, but {n} are too few for p below {alpha:g}"]
    return [f"placebo effects are as large: p {result.p_value:.3g} of {n}"]


def _row(task: SeriesTask, whole: SeriesEffect) -> dict[str, Any]:
    try:
        total = estimate(task).total
    except EstimationError as error:
        return _no_row(str(error))
    base = whole.total.estimate
    change = total.estimate / base - 1 if base else None
    return {
        "cum_effect": total.estimate,
        "cum_lower": total.ci_low,
        "cum_upper": total.ci_high,
        "relative_change": change,
        "is_large_change": change is not None and abs(change) > LARGE_CHANGE,
        "reason": None,
    }


def _no_row(reason: str) -> dict[str, Any]:
    numbers = dict.fromkeys(("cum_effect", "cum_lower", "cum_upper", "relative_change"))
    return {**numbers, "is_large_change": False, "reason": reason}

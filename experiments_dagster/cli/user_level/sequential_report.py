"""What a sequential analysis says: named numbers, the table of looks, plots, and a sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from experiments_dagster.cli.output import Sheet
from experiments_dagster.cli.user_level import charts
from experiments_dagster.cli.user_level.bundle import Document, Table
from experiments_dagster.cli.user_level.sequential import (
    SequentialPlan,
    SequentialResult,
    Verdict,
    naive_interval,
)
from experiments_dagster.cli.user_level.sequential_request import StreamColumns
from experiments_dagster.reporting.numbers import (
    DASH,
    MINUS,
    count,
    interval,
    number,
    optional,
    p_value,
    signed,
)

LOOK_COLUMNS = (
    *("n_control", "n_test", "mean_control", "mean_test", "var_control", "var_test"),
    *("diff", "se", "z", "info", "look_n", "t", "boundary_z", "p_value", "crossed"),
)
SEQUENCE_COLUMNS = ("cs_low", "cs_high", "m_value", "p_anytime")
NEW_COLUMNS = (
    *("naive_p_value", "repeated_ci_low", "repeated_ci_high", "alpha_spent", "info_fraction"),
    *("score", "rel_lift", "rel_se", "reason"),
)
NEW_SEQUENCE_COLUMNS = (
    *("naive_p_value", "log_m_value", "cs_running_low", "cs_running_high", "info_fraction"),
    *("score", "rel_lift", "rel_se", "reason"),
)

NOTES = {
    "final_p_value": "stagewise, valid after stopping; null until a boundary is crossed or the "
    "last planned look is taken. tecore's is naive_p_value",
    "final_ci": "stagewise, of the same ordering as final_p_value. tecore's is naive_ci",
    "look_table.p_value": "repeated p-value, valid at every look; tecore's is naive_p_value",
    "look_table.t": "rows of the look over planned rows; tecore divided by the information of the "
    "last look in the file, so that re-running as data arrive was plain peeking",
    "look_table.boundary_z": "Lan-DeMets boundary with its constant solved for",
}
SEQUENCE_NOTES = {
    "final_p_value": "the anytime p-value at the deciding look",
    "final_ci": "the interval of the confidence sequence. tecore's is naive_ci",
    "look_table.m_value": "1 at the least in tecore; here the mixture likelihood ratio itself",
}
RATIO_NOTES = {
    "look_table": "means, diff and se are of the ratios at each look, by their influence scores; "
    "tecore froze the control's ratio of the first look",
    "diagnostics.ratio_baseline_r0": "printed as information; no number rests on it",
}
TUNING_NOTE = {
    "look_table.cs_low, cs_high": "tuned at the planned information unless --cs-tau is given; "
    "tecore's 1.0 is in units of the metric"
}
ONE_SIDED_NOTE = {
    "look_table.boundary_z": "one-sided mixture; tecore used the two-sided one at the same alpha"
}


def estimates_of(
    result: SequentialResult, plan: SequentialPlan, columns: StreamColumns
) -> Document:
    """The decision with its valid numbers and, labelled, the naive ones."""
    final, stagewise = result.final, result.stagewise
    is_sequence = plan.mode == "confidence_sequence"
    limits = list(final.limits) if final and final.boundary_z is not None else None
    naive = list(naive_interval(final.look, plan.alpha)) if final else None
    final_p = stagewise.p_value if stagewise else None
    final_ci: list[float | None] | None = None
    if stagewise:
        final_ci = [stagewise.ci_low, stagewise.ci_high]
    if is_sequence and final:
        final_p, final_ci = final.p_value, limits
    reason = None
    if final_p is None:
        reason = "NO_LOOK_YET" if final is None else "NOT_FINISHED"
        if final is not None and result.is_finished:
            reason = "INFORMATION_DECREASED"
    level = 1 - plan.alpha if is_sequence else 1 - 2 * plan.alpha / plan.sides
    return {
        "decision": "reject" if result.stopped else "continue",
        "stopped": result.stopped,
        "stop_look": final.look.look_n if final and result.stopped else None,
        "final_p_value": final_p,
        "final_ci": final_ci,
        "final_reason": reason,
        "final_confidence_level": level,
        "cs": limits if is_sequence else None,
        "cs_running": list(final.running) if is_sequence and final else None,
        "is_finished": result.is_finished,
        "final_look": final.look.look_n if final else None,
        "estimate": final.look.diff if final else None,
        "median_unbiased_estimate": stagewise.median_unbiased_estimate if stagewise else None,
        "repeated_p_value": None if is_sequence or not final else final.p_value,
        "repeated_ci": None if is_sequence else limits,
        "rel_lift": final.look.rel_lift if final else None,
        "rel_lift_ci": _lift_limits(final, plan),
        "alpha_spent": final.alpha_spent if final else (None if is_sequence else 0.0),
        "naive_estimate": final.look.diff if final else None,
        "naive_p_value": final.naive_p_value if final else None,
        "naive_ci": naive,
        "compat_note": _notes(plan, columns),
    }


def _lift_limits(final: Verdict | None, plan: SequentialPlan) -> list[float | None] | None:
    """The lift with the critical value of the deciding look."""
    if final is None or final.boundary_z is None:
        return None
    lift, error = final.look.rel_lift, final.look.rel_se
    if lift is None or error is None:
        return None
    half = final.boundary_z * error
    if plan.mode == "confidence_sequence" and plan.sides == 1:
        return [lift - half, None] if plan.sign > 0 else [None, lift + half]
    return [lift - half, lift + half]


def _notes(plan: SequentialPlan, columns: StreamColumns) -> dict[str, str]:
    notes = dict(NOTES)
    if plan.mode == "confidence_sequence":
        notes = dict(SEQUENCE_NOTES)
        notes |= TUNING_NOTE if plan.cs_tau is None else {}
        notes |= ONE_SIDED_NOTE if plan.sides == 1 else {}
    return notes | (RATIO_NOTES if columns.y is None else {})


def look_table(result: SequentialResult, plan: SequentialPlan) -> Table:
    """Every look with the columns of its mode."""
    is_sequence = plan.mode == "confidence_sequence"
    columns: tuple[str, ...] = (*LOOK_COLUMNS, *NEW_COLUMNS)
    if is_sequence:
        columns = (*LOOK_COLUMNS, *SEQUENCE_COLUMNS, *NEW_SEQUENCE_COLUMNS)
    rows = [_look_row(verdict, result.planned_information) for verdict in result.verdicts]
    return Table(columns=columns, rows=[{name: row[name] for name in columns} for row in rows])


def _look_row(verdict: Verdict, planned_information: float | None) -> dict[str, Any]:
    """Every column of either mode."""
    look = verdict.look
    information = look.information
    fraction = information / planned_information if information and planned_information else None
    low, high = verdict.limits
    return {
        "n_control": look.n_control,
        "n_test": look.n_test,
        "mean_control": look.mean_control,
        "mean_test": look.mean_test,
        "var_control": look.var_control,
        "var_test": look.var_test,
        "diff": look.diff,
        "se": look.se,
        "z": look.z,
        "info": information,
        "look_n": look.look_n,
        "t": verdict.t,
        "boundary_z": verdict.boundary_z,
        "p_value": verdict.p_value,
        "crossed": verdict.crossed,
        "cs_low": low,
        "cs_high": high,
        "m_value": verdict.m_value,
        "log_m_value": verdict.log_m_value,
        "p_anytime": verdict.p_value,
        "naive_p_value": verdict.naive_p_value,
        "repeated_ci_low": low,
        "repeated_ci_high": high,
        "alpha_spent": verdict.alpha_spent,
        "info_fraction": fraction,
        "score": verdict.score,
        "cs_running_low": verdict.running[0],
        "cs_running_high": verdict.running[1],
        "rel_lift": look.rel_lift,
        "rel_se": look.rel_se,
        "reason": verdict.reason,
    }


def plots_of(
    result: SequentialResult, plan: SequentialPlan, columns: StreamColumns
) -> dict[str, Callable[[], str]]:
    """Functions that draw the score and the effect at each look."""
    scores, effects = [], []
    for verdict in result.verdicts:
        z, critical = verdict.look.z, verdict.boundary_z
        upper = critical if plan.direction != "decrease" else None
        lower = None
        if critical is not None and plan.direction != "increase":
            lower = -critical
        look_n, crossed = verdict.look.look_n, verdict.crossed
        scores.append(
            charts.TrajectoryPoint(look_n=look_n, value=z, limits=(lower, upper), crossed=crossed)
        )
        effects.append(
            charts.TrajectoryPoint(
                look_n=look_n, value=verdict.look.diff, limits=verdict.limits, crossed=crossed
            )
        )
    kind = "boundary" if plan.mode == "group_sequential" else "bound of the confidence sequence"
    interval_name = (
        "repeated interval" if plan.mode == "group_sequential" else "confidence sequence"
    )
    return {
        "z_trajectory": partial(
            charts.trajectory,
            scores,
            title=f"{columns.metric}: test statistic at each look",
            y="z",
            is_score=True,
            note=f"dashed: {kind} at alpha {plan.alpha:g}; green: crossed",
        ),
        "effect_trajectory": partial(
            charts.trajectory,
            effects,
            title=f"{columns.metric}: {columns.arms.test} minus {columns.arms.control}",
            y="difference",
            is_score=False,
            note=f"dashed: {interval_name}; green: crossed",
        ),
    }


def sheet_of(result: SequentialResult, plan: SequentialPlan, columns: StreamColumns) -> Sheet:
    """The looks as a table for people, with the decision below it."""
    rows = [
        (
            count(verdict.look.look_n),
            f"{count(verdict.look.n_control)} / {count(verdict.look.n_test)}",
            optional(verdict.look.diff, signed, verdict.look.reason),
            optional(verdict.look.z, signed),
            _boundary_words(verdict, plan),
            interval(*verdict.limits, signed) or _one_limit(verdict),
            optional(verdict.p_value, p_value),
            "crossed" if verdict.crossed else "",
        )
        for verdict in result.verdicts
    ]
    return Sheet(
        title=f"{columns.metric}: {columns.arms.test} against {columns.arms.control}, "
        f"{plan.mode.replace('_', ' ')}",
        columns=("rows", "control / test", "difference", "z", "boundary", "interval", "p", ""),
        rows=rows,
        align="rrrrrrrl",
        notes=[_sentence(result, plan)],
    )


def _boundary_words(verdict: Verdict, plan: SequentialPlan) -> str:
    if verdict.boundary_z is None:
        return DASH
    sign = {"two_sided": "±", "increase": "+", "decrease": MINUS}[plan.direction]
    return sign + number(verdict.boundary_z)


def _one_limit(verdict: Verdict) -> str:
    low, high = verdict.limits
    if low is not None:
        return f"from {signed(low)}"
    return DASH if high is None else f"to {signed(high)}"


def _sentence(result: SequentialResult, plan: SequentialPlan) -> str:
    final = result.final
    if final is None:
        return f"continue: no look has a result yet; {count(plan.planned_n)} rows are planned"
    if result.stopped:
        text = f"reject: the boundary was crossed at the look at {count(final.look.look_n)} rows"
    elif result.is_finished:
        text = "continue: the last planned look is taken and no boundary was crossed"
    else:
        text = "continue: no boundary was crossed so far"
    if result.stagewise is not None:
        found = result.stagewise
        limits = interval(found.ci_low, found.ci_high, signed)
        text += f"; p {p_value(found.p_value)}, interval {limits}, estimate "
        text += signed(found.median_unbiased_estimate)
    return text

"""`sequential-mean` and `sequential-ratio`: the looks of a file, judged, in named numbers.

`look_table` keeps the columns of old; what is new stands behind them. `p_value` is valid at every
look, `naive_p_value` is what stood there. Of a ratio every look has its own ratios: a baseline
frozen at the first look and the control's denominators bias the test as soon as the treatment moves
the denominator, so `ratio_baseline_r0` is printed and used for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from experiments_dagster.cli.user_level.audit import Schedule, make_audit
from experiments_dagster.cli.user_level.bundle import Audit, Document, Outcome
from experiments_dagster.cli.user_level.checks import check_choice
from experiments_dagster.cli.user_level.looks import (
    NOT_NEARLY_NORMAL,
    LookStats,
    mean_looks,
    nearly_normal_looks,
    ratio_looks,
    seen_rows,
    stream_order,
)
from experiments_dagster.cli.user_level.rows import (
    TwoArms,
    Vector,
    complete_rows,
    numbers,
    read_file,
    require_columns,
    sample_ratio,
    two_arms,
)
from experiments_dagster.cli.user_level.sequential import (
    MAX_REPEATED_P,
    SequentialPlan,
    SequentialResult,
    analyse_looks,
)
from experiments_dagster.cli.user_level.sequential_report import (
    estimates_of,
    look_table,
    plots_of,
    sheet_of,
)
from experiments_dagster.cli.user_level.sequential_request import (
    BASELINES,
    SequentialRequest,
    StreamColumns,
)
from experiments_dagster.stats.methods.units.scores import mean_scores, ratio_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stream:
    """The kept rows in stream order."""

    arms: TwoArms
    columns: Mapping[str, Vector]
    ends: Mapping[int, int]
    warnings: tuple[str, ...]


def analyse_file(
    command: str,
    path: Path,
    columns: StreamColumns,
    request: SequentialRequest,
    *,
    has_audit: bool = False,
) -> Outcome:
    """Run a sequential analysis over a file.

    Raises:
        ValueError: A flag, column or arm does not fit.
    """
    return analyse_table(command, path, read_file(path), columns, request, has_audit=has_audit)


def analyse_table(
    command: str,
    path: Path,
    table: pl.DataFrame,
    columns: StreamColumns,
    request: SequentialRequest,
    *,
    has_audit: bool = False,
) -> Outcome:
    """Run a sequential analysis over rows that came from `path`.

    Raises:
        ValueError: A flag, column or arm does not fit.
    """
    plan, schedule = request.plan(), request.schedule()
    check_choice("--baseline-mode", columns.baseline_mode, BASELINES)
    if columns.timestamp is not None:
        require_columns(path, table, {"--timestamp-col": columns.timestamp})
    order = stream_order(table, columns.timestamp)
    stream = _stream(path, table[order], columns, schedule)
    looks = _looks(stream, columns, request)
    if plan.mode == "confidence_sequence":
        looks = _started(looks, stream, columns)
    result = analyse_looks(looks, plan)
    r0, warnings = _baseline(stream, columns)
    names = columns.arms.control, columns.arms.test
    assigned = dict(zip(names, stream.arms.assigned, strict=True))
    srm, srm_warning = sample_ratio(assigned, request.shares)
    warnings += _warnings(table.height, schedule, looks, result, plan)
    audit = None
    if has_audit:
        audit = _audit(command, table, columns, request)
    diagnostics: Document = {
        "mode": plan.mode,
        "spending": plan.spending if plan.mode == "group_sequential" else None,
        "two_sided": plan.sides == 2,  # noqa: PLR2004
        "effect_direction": plan.direction,
        "planned_looks": schedule,
        "planned_n": plan.planned_n,
        "planned_information": result.planned_information,
        "cs_tau": plan.cs_tau,
        "cs_tuning_information": result.tuning,
        "srm": srm,
    }
    if columns.y is None:
        diagnostics |= {"ratio_baseline_r0": r0, "baseline_mode": columns.baseline_mode}
    return Outcome(
        command=command,
        inputs=_inputs(path, columns, plan, r0),
        estimates=estimates_of(result, plan, columns),
        diagnostics=diagnostics,
        warnings=[
            *stream.arms.warnings,
            *stream.warnings,
            *warnings,
            *([srm_warning] if srm_warning else []),
        ],
        tables={"look_table": look_table(result, plan)},
        plots=plots_of(result, plan, columns),
        sheets=[sheet_of(result, plan, columns)],
        audit=audit,
    )


def _stream(
    path: Path, table: pl.DataFrame, columns: StreamColumns, schedule: Sequence[int]
) -> _Stream:
    arms = two_arms(path, table, columns.arms)
    named = columns.named()
    values = {flag: numbers(arms, flag, column) for flag, column in named.items()}
    if columns.den is not None:
        n_negative = int((values["--den"] < 0).sum())
        if n_negative:
            msg = f"--den {columns.den}: {n_negative} of {len(values['--den'])} values are below 0"
            raise ValueError(msg)
    is_complete, warnings = complete_rows(arms, values, named)
    kept = arms.keep(is_complete)
    return _Stream(
        arms=kept,
        columns={flag: column[is_complete] for flag, column in values.items()},
        ends=seen_rows(kept.rows, schedule, table.height),
        warnings=tuple(warnings),
    )


def _looks(stream: _Stream, columns: StreamColumns, request: SequentialRequest) -> list[LookStats]:
    is_test, found = stream.arms.is_test, stream.columns
    min_n, floor = request.min_n_per_group, request.var_floor
    if columns.y is not None:
        return mean_looks(found["--y"], is_test, stream.ends, min_n=min_n, var_floor=floor)
    return ratio_looks(
        found["--num"], found["--den"], is_test, stream.ends, min_n=min_n, var_floor=floor
    )


def _started(
    looks: Sequence[LookStats], stream: _Stream, columns: StreamColumns
) -> list[LookStats]:
    """The looks from where the sequence may start, by what is known at each of them."""
    is_test, found = stream.arms.is_test, stream.columns

    def scores(end: int) -> Vector:
        if columns.y is not None:
            return mean_scores(found["--y"][:end], is_test[:end])
        return ratio_scores(found["--num"][:end], found["--den"][:end], is_test[:end])

    return nearly_normal_looks(looks, stream.ends, scores)


def _baseline(stream: _Stream, columns: StreamColumns) -> tuple[float | None, list[str]]:
    """The control's ratio at the first look or before the experiment: information only."""
    if columns.y is not None:
        return None, []
    warnings: list[str] = []
    num, den, mask = stream.columns["--num"], stream.columns["--den"], ~stream.arms.is_test
    first = next((end for end in stream.ends.values() if mask[:end].any()), len(mask))
    rows = mask & (np.arange(len(mask)) < first)
    if columns.baseline_mode == "pre":
        if columns.num_pre is None or columns.den_pre is None:
            warnings.append(
                "--baseline-mode pre without --num-pre and --den-pre: ratio_baseline_r0 is that of "
                "the first look"
            )
        else:
            num = numbers(stream.arms, "--num-pre", columns.num_pre)
            den = numbers(stream.arms, "--den-pre", columns.den_pre)
            rows = mask & ~(np.isnan(num) | np.isnan(den))
    total = float(den[rows].sum())
    return float(num[rows].sum()) / total if total else None, warnings


def _warnings(
    n_rows: int,
    schedule: Sequence[int],
    looks: Sequence[LookStats],
    result: SequentialResult,
    plan: SequentialPlan,
) -> list[str]:
    texts = list(result.warnings)
    waiting = [n for n in schedule if n > n_rows]
    if waiting and not result.stopped:
        texts.append(
            f"{len(waiting)} of {len(schedule)} planned looks wait for more rows; the next is at "
            f"{waiting[0]} of now {n_rows}"
        )
    if n_rows > plan.planned_n:
        texts.append(f"rows after the last planned look at {plan.planned_n} take no part")
    texts += [
        f"the look at {look.look_n} rows ({look.n_control} control, {look.n_test} test) has no "
        f"result and spends nothing: {look.reason}"
        for look in looks
        if look.reason is not None
    ]
    if any(look.reason == NOT_NEARLY_NORMAL for look in looks):
        texts.append(
            f"{NOT_NEARLY_NORMAL}: the difference is too skewed for a confidence sequence; its "
            "skewness falls with the square root of the rows"
        )
    if plan.mode == "group_sequential" and len(looks) > MAX_REPEATED_P:
        texts.append(
            f"look_table has repeated p-values for the first {MAX_REPEATED_P} looks and the "
            "deciding one, and the boundaries of every look"
        )
    texts += [
        f"the look at {verdict.look.look_n} rows spends nothing: {verdict.reason}"
        for verdict in result.verdicts
        if verdict.reason == "INFORMATION_DECREASED"
    ]
    return texts


def _inputs(path: Path, columns: StreamColumns, plan: SequentialPlan, r0: float | None) -> Document:
    outcome: Document = {"y": columns.y}
    if columns.y is None:
        outcome = {
            "num": columns.num,
            "den": columns.den,
            "baseline_mode": columns.baseline_mode,
            "r0": r0,
        }
    return {
        "input": str(path),
        "group_col": columns.arms.group,
        "control": columns.arms.control,
        "test": columns.arms.test,
        **outcome,
        "mode": plan.mode,
        "alpha": plan.alpha,
        "spending": plan.spending,
        "effect_direction": plan.direction,
    }


def _audit(
    command: str,
    table: pl.DataFrame,
    columns: StreamColumns,
    request: SequentialRequest,
) -> Audit:
    return make_audit(
        table,
        "sequential_mean" if columns.y is not None else "sequential_ratio",
        command,
        shares=request.shares,
        group=columns.arms.group,
        unit=columns.arms.unit,
        schedule=Schedule(
            looks=request.schedule(),
            arms=columns.arms,
            min_n_per_group=request.min_n_per_group,
            timestamp=columns.timestamp,
        ),
    )

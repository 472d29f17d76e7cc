"""`cuped-ratio`: the difference of two ratios of totals, with and without the pre-period.

    base     delta method on R_T − R_C                                       (METHODS 2.5)
    cuped    the same, each arm's linearised values regressed on the pre-period  (METHODS 3.4)

`ratio_diff_approx` and `rel_lift_approx` keep their names and hold the true difference and lift:
tecore divided by the control's mean denominator over users that have one, which is another number
as soon as the treatment moves the denominator. `diff_linearized` is in units of the numerator, as
it was: the difference of means of N − R_C·D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.cli.output import NOT_ESTIMABLE
from experiments_dagster.cli.user_level import charts
from experiments_dagster.cli.user_level.audit import make_audit
from experiments_dagster.cli.user_level.bundle import Audit, Document, Outcome, Table
from experiments_dagster.cli.user_level.checks import check_level
from experiments_dagster.cli.user_level.estimates import (
    SUMMARY_COLUMNS,
    block_of,
    estimate_sheet,
    refused_block,
    summary_row,
)
from experiments_dagster.cli.user_level.rows import (
    ArmColumns,
    TwoArms,
    Vector,
    check_missing_alike,
    complete_rows,
    numbers,
    read_file,
    sample_ratio,
    two_arms,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.methods.units.interacted import with_missing_indicator
from experiments_dagster.stats.methods.units.lin import first_correlation
from experiments_dagster.stats.methods.units.pooled_theta import theta_pooled
from experiments_dagster.stats.methods.units.ratio_adjusted import compare_ratios_adjusted
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import Contrast

WEAK_CORRELATION = 0.05

NOTES = {
    "ratio_diff_approx": "the true difference of ratios; tecore divided diff_linearized by the "
    "control's mean denominator over non-zero users",
    "rel_lift_approx": "the true lift R_T/R_C - 1, adjusted in cuped; same cause",
    "p_value": "of the difference of ratios by the delta method, with its interval; that of the "
    "linearised values is p_value_linearized",
    "diagnostics.mean_den_control": "over all control users; tecore left out those with zero",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioRequest:
    """The flags of `cuped-ratio`."""

    path: Path
    arms: ArmColumns
    num: str
    den: str
    num_pre: str
    den_pre: str
    alpha: float = 0.05
    shares: dict[str, float] | None = None
    is_legacy: bool = False
    has_audit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """The file, and columns per unit; the pre-period ones have NaN where it is missing."""

    table: pl.DataFrame
    arms: TwoArms
    num: Vector
    den: Vector
    num_pre: Vector
    den_pre: Vector
    warnings: tuple[str, ...]

    @property
    def has_pre(self) -> charts.Mask:
        """Units with a whole pre-period."""
        known: charts.Mask = ~(np.isnan(self.num_pre) | np.isnan(self.den_pre))
        return known


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linearised:
    """N − R_C·D after and before exposure, with the control's ratios, and the pooled theta."""

    post: Vector
    pre: Vector
    r0_post: float
    r0_pre: float | None
    theta: float | None
    adjusted: Vector | None


def analyse_cuped_ratio(request: RatioRequest) -> Outcome:
    """Compare the ratios of two arms with and without the pre-period.

    Raises:
        ValueError: A flag, column or arm does not fit.
        EstimationError: A denominator adds up to zero.
    """
    check_level("--alpha", request.alpha)
    data = _data(request)
    linear = _linearise(data)
    blocks, warnings = _blocks(request, data, linear)
    names = request.arms.control, request.arms.test
    assigned = dict(zip(names, data.arms.assigned, strict=True))
    srm, srm_warning = sample_ratio(assigned, request.shares)
    diagnostics = _diagnostics(data, linear) | {"srm": srm}
    correlation = diagnostics["corr_pre_post_linearized"]
    if correlation is not None and abs(correlation) < WEAK_CORRELATION:
        warnings.append("post and pre are hardly correlated: the pre-period gains next to nothing")
    columns = (
        *SUMMARY_COLUMNS,
        *("diff_linearized", "p_value_linearized", "ratio_diff_approx", "rel_lift_approx"),
    )
    rows = [
        summary_row(name, block) | {key: block[key] for key in columns[len(SUMMARY_COLUMNS) :]}
        for name, block in blocks.items()
    ]
    title = f"{request.num}/{request.den}: {request.arms.test} against {request.arms.control}"
    return Outcome(
        command="cuped-ratio",
        inputs={
            "input": str(request.path),
            "group_col": request.arms.group,
            "control": request.arms.control,
            "test": request.arms.test,
            "num": request.num,
            "den": request.den,
            "num_pre": request.num_pre,
            "den_pre": request.den_pre,
            "alpha": request.alpha,
        },
        estimates={**blocks, "default": "cuped", "compat_note": dict(NOTES)},
        diagnostics=diagnostics,
        warnings=[*data.warnings, *warnings, *([srm_warning] if srm_warning else [])],
        tables={"summary": Table(columns=columns, rows=rows)},
        plots=_plots(request, data, linear),
        sheets=[estimate_sheet(title, blocks, request.alpha)],
        audit=_audit(request, data.table) if request.has_audit else None,
        exit_code=0 if blocks["base"]["status"] == "ok" else NOT_ESTIMABLE,
    )


def _data(request: RatioRequest) -> _Data:
    table = read_file(request.path)
    arms = two_arms(request.path, table, request.arms)
    flags = {
        "--num": request.num,
        "--den": request.den,
        "--num-pre": request.num_pre,
        "--den-pre": request.den_pre,
    }
    columns = {flag: numbers(arms, flag, column) for flag, column in flags.items()}
    outcome = {flag: columns[flag] for flag in ("--num", "--den")}
    is_complete, warnings = complete_rows(arms, outcome, flags)
    arms = arms.keep(is_complete)
    num, den, num_pre, den_pre = (values[is_complete] for values in columns.values())
    if not min(arms.counts):
        msg = f"--num {request.num}, --den {request.den}: no row of an arm has both values"
        raise ValueError(msg)
    for flag, values in (("--den", den), ("--den-pre", den_pre)):
        n_negative = int((values < 0).sum())
        if n_negative:
            msg = f"{flag} {flags[flag]}: {n_negative} of {len(values)} values are below 0"
            raise ValueError(msg)
    n_odd = int(((num != 0) & (den == 0)).sum())
    if n_odd:
        warnings.append(f"{n_odd} units have a numerator but no denominator; they stay in")
    n_missing = int((np.isnan(num_pre) | np.isnan(den_pre)).sum())
    if n_missing:
        warnings.append(
            f"--num-pre, --den-pre: {n_missing} of {len(num)} units have no pre-period; they "
            "stay in (as 0 with an indicator)"
        )
    return _Data(
        table=table,
        arms=arms,
        num=num,
        den=den,
        num_pre=num_pre,
        den_pre=den_pre,
        warnings=(*arms.warnings, *warnings),
    )


def _linearise(data: _Data) -> _Linearised:
    """Linearise by the control's ratios, pre-period and all.

    Raises:
        EstimationError: ZERO_DENOMINATOR in the control.
    """
    is_control, has_pre = ~data.arms.is_test, data.has_pre
    r0_post = _ratio(data.num, data.den, is_control)
    if r0_post is None:
        raise EstimationError("ZERO_DENOMINATOR", "arm control")
    r0_pre = _ratio(data.num_pre, data.den_pre, is_control & has_pre)
    post = data.num - r0_post * data.den
    theta, pre, adjusted = None, np.zeros(len(post)), None
    if r0_pre is not None:
        known = data.num_pre - r0_pre * data.den_pre
        pre = np.where(has_pre, known, known[has_pre].mean())
        theta = theta_pooled(post, pre)
        adjusted = None if theta is None else post - theta * (pre - pre.mean())
    return _Linearised(
        post=post, pre=pre, r0_post=r0_post, r0_pre=r0_pre, theta=theta, adjusted=adjusted
    )


def _ratio(num: Vector, den: Vector, mask: charts.Mask) -> float | None:
    total = float(den[mask].sum())
    return float(num[mask].sum()) / total if total else None


def _blocks(
    request: RatioRequest, data: _Data, linear: _Linearised
) -> tuple[dict[str, Document], list[str]]:
    methods: dict[str, tuple[Callable[[], Contrast], Vector | None]] = {
        "base": (partial(_unadjusted, data, request.alpha), linear.post),
        "cuped": (partial(_adjusted, request, data), linear.adjusted),
    }
    mask = data.arms.is_test
    ratios = _ratio(data.num, data.den, ~mask), _ratio(data.num, data.den, mask)
    blocks, warnings = {}, []
    for name, (method, values) in methods.items():
        try:
            block = block_of(method())
        except EstimationError as error:
            block = refused_block(error, data.arms.counts, ratios)
            warnings.append(f"{name}: {error}")
        block |= {"ratio_control": ratios[0], "ratio_test": ratios[1]}
        block |= {"ratio_diff_approx": block["diff"], "rel_lift_approx": block["rel_lift"]}
        block |= _linearised_numbers(values, mask, request.alpha)
        if request.is_legacy:
            block |= _legacy(block["diff_linearized"], data, linear)
        blocks[name] = block
    return blocks, warnings


def _unadjusted(data: _Data, alpha: float) -> Contrast:
    control, test = (
        ArmMoments.from_arrays(numerator=data.num[rows], denominator=data.den[rows])
        for rows in (~data.arms.is_test, data.arms.is_test)
    )
    return compare_ratios(control, test, alpha=alpha)


def _adjusted(request: RatioRequest, data: _Data) -> Contrast:
    is_test = data.arms.is_test
    check_missing_alike(~data.has_pre, is_test, "--num-pre, --den-pre")
    matrices: list[NDArray[np.float64]] = []
    names: list[str] = []
    for name, values in ((request.num_pre, data.num_pre), (request.den_pre, data.den_pre)):
        matrix, labels = with_missing_indicator(values, name=name)
        matrices.append(matrix)
        names += labels
    return compare_ratios_adjusted(
        data.num, data.den, is_test, np.hstack(matrices), names=names, alpha=request.alpha
    ).adjusted


def _linearised_numbers(values: Vector | None, is_test: charts.Mask, alpha: float) -> Document:
    """Welch on N − R_C·D: the old test, in units of the numerator."""
    names = ("diff_linearized", "p_value_linearized", "reason_linearized")
    if values is None:
        return dict(zip(names, (None, None, "ZERO_VARIANCE"), strict=True))
    try:
        welch = compare_means(
            ArmMoments.from_arrays(y=values[~is_test]),
            ArmMoments.from_arrays(y=values[is_test]),
            alpha=alpha,
        ).difference
    except EstimationError as error:
        return dict(zip(names, (None, None, error.code), strict=True))
    return dict(zip(names, (welch.estimate, welch.p_value, None), strict=True))


def _legacy(diff_linearized: float | None, data: _Data, linear: _Linearised) -> Document:
    """The old numbers: scaled by the mean denominator of control users that have one."""
    control = data.den[~data.arms.is_test]
    mean = float(control[control > 0].mean())
    scaled = None if diff_linearized is None else diff_linearized / mean
    has_lift = scaled is not None and linear.r0_post != 0
    return {
        "legacy_ratio_diff_approx": scaled,
        "legacy_rel_lift_approx": (scaled or 0.0) / linear.r0_post if has_lift else None,
    }


def _diagnostics(data: _Data, linear: _Linearised) -> Document:
    correlation = None
    if linear.theta is not None and float(linear.post.std()):
        known = data.has_pre
        correlation = first_correlation(linear.post[known], linear.pre[known][:, None])
    return {
        "r0_post_control": linear.r0_post,
        "r0_pre_control": linear.r0_pre,
        "theta": linear.theta,
        "corr_pre_post_linearized": correlation,
        "zero_den_share": float((data.den == 0).mean()),
        "mean_den_control": float(data.den[~data.arms.is_test].mean()),
        "mean_den_test": float(data.den[data.arms.is_test].mean()),
        "n_missing_pre": int((~data.has_pre).sum()),
    }


def _audit(request: RatioRequest, table: pl.DataFrame) -> Audit:
    return make_audit(
        table,
        "b2c_ratio",
        "cuped-ratio",
        shares=request.shares,
        group=request.arms.group,
        unit=request.arms.unit,
    )


def _plots(request: RatioRequest, data: _Data, linear: _Linearised) -> dict[str, Callable[[], str]]:
    names = (request.arms.control, request.arms.test)
    known = data.den > 0
    ratio = f"{request.num}/{request.den}"
    return {
        "ratio_post_by_group": partial(
            charts.histograms,
            data.num[known] / data.den[known],
            data.arms.is_test[known],
            arms=names,
            title=f"{ratio} of a unit, by arm",
            x=ratio,
        ),
        "linearized_by_group": partial(
            charts.histograms,
            linear.post,
            data.arms.is_test,
            arms=names,
            title=f"{request.num} less what the control's ratio predicts from {request.den}",
            x=f"{request.num} - {linear.r0_post:.4g} x {request.den}",
        ),
    }

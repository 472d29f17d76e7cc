"""`cuped`: the difference of means with and without the pre-period, fixed horizon.

    base              Welch
    lin               Lin's interacted regression, HC2: the default (METHODS 3.1)
    cuped             one theta over both arms, Welch on what it leaves: the block of old
    cuped_crossfit    the same with theta from the other folds, on request

A transform applies to outcome and covariate alike, with caps over both arms together. A user
without a pre-period stays: as 0 with an indicator in `lin`, at the mean (no adjustment) elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from experiments_dagster.cli.output import NOT_ESTIMABLE, Sheet
from experiments_dagster.cli.user_level import charts
from experiments_dagster.cli.user_level.audit import make_audit
from experiments_dagster.cli.user_level.bundle import Audit, Document, Outcome, Table
from experiments_dagster.cli.user_level.checks import check_choice, check_level
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
from experiments_dagster.stats.methods.units.cross_fitted import out_of_fold_predictions
from experiments_dagster.stats.methods.units.interacted import with_missing_indicator
from experiments_dagster.stats.methods.units.lin import (
    adjusted_contrast,
    compare_adjusted,
    first_correlation,
)
from experiments_dagster.stats.methods.units.pooled_theta import cuped_pooled_theta, theta_pooled
from experiments_dagster.stats.methods.units.scores import mean_scores
from experiments_dagster.stats.methods.units.transforms import (
    compare_capped_shares,
    frozen_cap,
    log1p_outcome,
    winsorise,
)
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import Contrast

TRANSFORMS = ("raw", "winsor", "log1p")
ADJUSTMENTS = ("lin", "crossfit")

WEAK_CORRELATION = 0.05
MIN_QUANTILE = 0.5
FOLDS = 5

NOTES = {
    "lin": "new: the default estimate, one slope per arm and heteroscedasticity-robust errors",
    "cuped.mean_control, cuped.mean_test": "the raw means; tecore printed adjusted ones",
    "cuped.theta": "from control and test only; tecore took every row of the file",
    "rel_lift": "new: relative to the raw control mean, with its own interval",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CupedRequest:
    """The flags of `cuped`."""

    path: Path
    arms: ArmColumns
    y: str
    x: str
    alpha: float = 0.05
    transform: str = "raw"
    winsor_q: float = 0.99
    adjustment: str = "lin"
    seed: int = 42
    shares: dict[str, float] | None = None
    is_legacy: bool = False
    has_audit: bool = False

    def check(self) -> None:
        """Refuse values outside their range.

        Raises:
            ValueError: The flag, its value and the rule.
        """
        check_choice("--transform", self.transform, TRANSFORMS)
        check_choice("--cuped", self.adjustment, ADJUSTMENTS)
        check_level("--alpha", self.alpha)
        if not MIN_QUANTILE < self.winsor_q < 1:
            msg = f"--winsor-q {self.winsor_q:g}: must be above {MIN_QUANTILE} and below 1"
            raise ValueError(msg)
        if self.seed < 0:
            msg = f"--seed {self.seed}: must not be below 0"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """The file, and columns after the transform; `x` has NaN where a unit has no pre-period."""

    table: pl.DataFrame
    arms: TwoArms
    y: Vector
    x: Vector
    caps: Document | None
    warnings: tuple[str, ...]

    @property
    def is_missing(self) -> charts.Mask:
        """Units without a pre-period."""
        missing: charts.Mask = np.isnan(self.x)
        return missing

    @property
    def filled(self) -> Vector:
        """The covariate with its mean where it is missing, which adjusts by nothing."""
        return np.where(self.is_missing, np.nanmean(self.x), self.x)


def analyse_cuped(request: CupedRequest) -> Outcome:
    """Compare two arms with and without the pre-period.

    Raises:
        ValueError: A flag, column or arm does not fit.
        EstimationError: The arms themselves cannot be compared.
    """
    request.check()
    data = _data(request)
    blocks, warnings = _blocks(request, data)
    srm, srm_warning = _srm(data.arms, request)
    is_estimable = blocks["base"]["status"] == "ok"
    diagnostics = _diagnostics(request, data) | {"srm": srm}
    correlation = diagnostics["corr_xy"]
    if correlation is not None and abs(correlation) < WEAK_CORRELATION:
        warnings.append("x and y are hardly correlated: the pre-period gains next to nothing")
    estimates: Document = dict(blocks)
    estimates["default"] = "cuped_crossfit" if request.adjustment == "crossfit" else "lin"
    estimates["compat_note"] = dict(NOTES)
    return Outcome(
        command="cuped",
        inputs={
            "input": str(request.path),
            "group_col": request.arms.group,
            "control": request.arms.control,
            "test": request.arms.test,
            "y": request.y,
            "x": request.x,
            "alpha": request.alpha,
            "transform": request.transform,
            "winsor_q": request.winsor_q,
        },
        estimates=estimates,
        diagnostics=diagnostics,
        warnings=[*data.warnings, *warnings, *([srm_warning] if srm_warning else [])],
        tables={
            "summary": Table(
                columns=SUMMARY_COLUMNS,
                rows=[summary_row(name, block) for name, block in blocks.items()],
            )
        },
        plots=_plots(request, data),
        sheets=[_sheet(request, blocks)],
        audit=_audit(request, data.table) if request.has_audit else None,
        exit_code=0 if is_estimable else NOT_ESTIMABLE,
    )


def _data(request: CupedRequest) -> _Data:
    table = read_file(request.path)
    arms = two_arms(request.path, table, request.arms)
    y, x = numbers(arms, "--y", request.y), numbers(arms, "--x", request.x)
    is_complete, missing = complete_rows(arms, {"--y": y}, {"--y": request.y})
    arms, y, x = arms.keep(is_complete), y[is_complete], x[is_complete]
    if not min(arms.counts) or np.isnan(x).all():
        column = f"--y {request.y}" if not min(arms.counts) else f"--x {request.x}"
        msg = f"{column}: no row of {'an arm' if not min(arms.counts) else 'the arms'} has a value"
        raise ValueError(msg)
    warnings = [*arms.warnings, *missing]
    n_missing = int(np.isnan(x).sum())
    if n_missing:
        warnings.append(
            f"--x {request.x}: {n_missing} of {len(x)} units have no pre-period; they stay in all "
            "blocks (lin: 0 and an indicator; cuped: not adjusted)"
        )
    y, x, caps = _transformed(request, y, x, arms)
    return _Data(table=table, arms=arms, y=y, x=x, caps=caps, warnings=tuple(warnings))


def _transformed(
    request: CupedRequest, y: Vector, x: Vector, arms: TwoArms
) -> tuple[Vector, Vector, Document | None]:
    """Outcome and covariate by the same rule, and what the caps were."""
    if request.transform == "raw":
        return y, x, None
    columns = {f"--y {request.y}": y, f"--x {request.x}": x}
    results, caps = [], {}
    for subject, values in columns.items():
        is_known = ~np.isnan(values)
        result = values.copy()
        try:
            if request.transform == "log1p":
                result[is_known] = log1p_outcome(values[is_known])
            else:
                cap = frozen_cap(values[is_known], request.winsor_q)
                result[is_known] = winsorise(values[is_known], cap)
                caps[subject] = cap
        except EstimationError as error:
            msg = f"{subject}: --transform {request.transform} is not possible ({error.detail})"
            raise ValueError(msg) from None
        results.append(result)
    if not caps:
        return results[0], results[1], None
    return results[0], results[1], _caps(request, y, arms, list(caps.values()))


def _caps(request: CupedRequest, y: Vector, arms: TwoArms, caps: Sequence[float]) -> Document:
    shares = compare_capped_shares(y, arms.is_test, caps[0])
    return {
        "quantile": request.winsor_q,
        "cap_y": caps[0],
        "cap_x": caps[1],
        "share_capped_control": shares.share_control,
        "share_capped_test": shares.share_treatment,
        "p_value_shares": shares.p_value,
        "reason": shares.reason,
    }


def _blocks(request: CupedRequest, data: _Data) -> tuple[dict[str, Document], list[str]]:
    """Every block by name, and warnings about them."""
    y, is_test, alpha = data.y, data.arms.is_test, request.alpha
    has_lift = request.transform != "log1p"
    methods: dict[str, Callable[[], Contrast]] = {
        "base": lambda: _welch(y, is_test, alpha),
        "lin": partial(_lin, request, data),
        "cuped": lambda: cuped_pooled_theta(y, is_test, data.filled, alpha=alpha).adjusted,
    }
    if request.adjustment == "crossfit":
        methods["cuped_crossfit"] = partial(_cross_fitted, request, data)
    blocks, warnings = {}, []
    for name, method in methods.items():
        try:
            if name != "base":
                check_missing_alike(data.is_missing, is_test, f"--x {request.x}")
            blocks[name] = block_of(method(), has_lift=has_lift)
        except EstimationError as error:
            counts = data.arms.counts
            blocks[name] = refused_block(error, counts, _means(y, is_test))
            warnings.append(f"{name}: {error}")
    theta = _theta(data)
    blocks["cuped"]["theta"] = theta
    if request.is_legacy and theta is not None:
        adjusted = y - theta * (data.filled - data.filled.mean())
        means = _means(adjusted, is_test)
        blocks["cuped"] |= {"legacy_mean_control": means[0], "legacy_mean_test": means[1]}
    return blocks, warnings


def _lin(request: CupedRequest, data: _Data) -> Contrast:
    matrix, names = with_missing_indicator(data.x, name=request.x)
    result = compare_adjusted(data.y, data.arms.is_test, matrix, names=names, alpha=request.alpha)
    return result.adjusted


def _cross_fitted(request: CupedRequest, data: _Data) -> Contrast:
    """Welch on what predictions by the other folds leave of the outcome."""
    unit = request.arms.unit
    keys: Any = data.arms.rows
    if unit is not None:
        keys = np.array(data.arms.table[unit].cast(str).to_list())
    predicted = out_of_fold_predictions(
        data.y, data.filled[:, None], keys, folds=FOLDS, penalty=0.0, seed=request.seed
    )
    rest = data.y - (predicted - predicted.mean())
    is_test = data.arms.is_test
    welch = _welch(rest, is_test, request.alpha).difference
    control = data.y[~is_test]
    return adjusted_contrast(
        difference=welch.estimate,
        scores=mean_scores(rest, is_test),
        is_treated=is_test,
        control_deviations=control - control.mean(),
        unadjusted=_welch(data.y, is_test, request.alpha),
        alpha=request.alpha,
        method="cuped_crossfit",
        variance_formula="welch",
        correlation=None,
        dropped=(),
        has_covariates=True,
        df=welch.degrees_of_freedom,
    ).adjusted


def _welch(y: Vector, is_test: charts.Mask, alpha: float) -> Contrast:
    return compare_means(
        ArmMoments.from_arrays(y=y[~is_test]), ArmMoments.from_arrays(y=y[is_test]), alpha=alpha
    )


def _theta(data: _Data) -> float | None:
    return theta_pooled(data.y, data.filled)


def _means(values: Vector, is_test: charts.Mask) -> tuple[float, float]:
    return float(values[~is_test].mean()), float(values[is_test].mean())


def _srm(arms: TwoArms, request: CupedRequest) -> tuple[Document, str | None]:
    counts = dict(zip((request.arms.control, request.arms.test), arms.assigned, strict=True))
    return sample_ratio(counts, request.shares)


def _diagnostics(request: CupedRequest, data: _Data) -> Document:
    theta = _theta(data)
    x = data.filled
    spread = float(data.y.std()), float(x.std())
    correlation = ratio = None
    if theta is not None and all(spread):
        known = ~data.is_missing
        correlation = first_correlation(data.y[known], x[known][:, None])
        adjusted = data.y - theta * (x - x.mean())
        ratio = float(np.var(adjusted, ddof=1) / np.var(data.y, ddof=1))
    return {
        "theta": theta,
        "corr_xy": correlation,
        "var_ratio_adj_over_raw": ratio,
        "estimand": "log_mean_difference" if request.transform == "log1p" else "difference",
        "n_missing_x": int(data.is_missing.sum()),
        "winsor": data.caps,
    }


def _audit(request: CupedRequest, table: pl.DataFrame) -> Audit:
    return make_audit(
        table,
        "b2c_user_level",
        "cuped",
        shares=request.shares,
        group=request.arms.group,
        unit=request.arms.unit,
    )


def _plots(request: CupedRequest, data: _Data) -> dict[str, Callable[[], str]]:
    names = (request.arms.control, request.arms.test)
    known = ~data.is_missing
    return {
        "y_post_by_group": partial(
            charts.histograms,
            data.y,
            data.arms.is_test,
            arms=names,
            title=f"{request.y} by arm",
            x=request.y,
        ),
        "x_vs_y_scatter": partial(
            charts.cloud,
            data.x[known],
            data.y[known],
            data.arms.is_test[known],
            arms=names,
            title=f"{request.y} against {request.x}",
            names=(request.x, request.y),
        ),
    }


def _sheet(request: CupedRequest, blocks: dict[str, Document]) -> Sheet:
    scale = {"raw": "", "winsor": f", capped at the {request.winsor_q:g} quantile"}
    suffix = scale.get(request.transform, ", as log(1 + y)")
    title = f"{request.y}: {request.arms.test} against {request.arms.control}{suffix}"
    return estimate_sheet(title, blocks, request.alpha)

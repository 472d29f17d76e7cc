"""One metric, one arm against the control: which estimator, which columns.

    moments          summaries            Welch or delta-method ratio on the given moments
    additive plans   sums over units      Welch, ratio, Lin regression from moments and residuals
    unadjusted       unit frames          Welch, ratio, quantile, or clusters as units
    cuped            + pre-period         Lin regression; scores of ratios and quantiles likewise
    pooled_theta     + pre-period         one coefficient over both arms
    post_stratified  + exposure strata    differences within strata, weighted

Arrays go to the estimators, records come back; an estimator that cannot say raises
`EstimationError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.config.experiment import CupedEstimator
from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.summaries import Summaries
from experiments_dagster.frames.unit_frames import Frames
from experiments_dagster.looks.sums import EVERYBODY, Part, Sums, Task
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.methods.moments.regression import (
    adjusted_from_sums,
    first_covariate_correlation,
    skewness,
)
from experiments_dagster.stats.methods.units.augmented import augment
from experiments_dagster.stats.methods.units.clustered import compare_clustered
from experiments_dagster.stats.methods.units.covariates import design_columns, text_labels
from experiments_dagster.stats.methods.units.cross_fitted import out_of_fold_predictions
from experiments_dagster.stats.methods.units.lin import compare_adjusted
from experiments_dagster.stats.methods.units.pooled_theta import cuped_pooled_theta
from experiments_dagster.stats.methods.units.post_stratified import compare_post_stratified
from experiments_dagster.stats.methods.units.quantile import compare_quantiles
from experiments_dagster.stats.methods.units.ratio_adjusted import compare_ratios_adjusted
from experiments_dagster.stats.methods.units.scores import mean_scores, ratio_scores
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import AdjustedContrast, Contrast, ScoredContrast

# The asymptotic sequence starts when the contrast's own skewness is small: the rule of thumb
# n >= 355 skew**2 for one mean says the same of the mean's skewness (1 / sqrt(355)).
MIN_UNITS_PER_ARM = 100
MAX_SKEWNESS = 355**-0.5

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]
Inputs = Frames | Summaries


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """The contrasts of one metric and arm; `deciding` is the one the plan names.

    `skewness` is that of the deciding difference, where sums gave it. `scores` are the influence
    scores of the deciding difference, one per unit, where there are
    units, and `units` and `is_treated` say whose they are.
    """

    metric: Metric
    arm: str
    plain: Contrast
    adjusted: AdjustedContrast | None
    scores: Vector | None = None
    units: NDArray[np.str_] | None = None
    is_treated: Mask | None = None
    skewness: float | None = None

    @property
    def deciding(self) -> Contrast:
        """Adjusted where the plan adjusts, else plain."""
        return self.plain if self.adjusted is None else self.adjusted.adjusted


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRows:
    """The rows of one metric that count at a look, over all arms of the experiment.

    Args:
        metric: What is measured.
        frame: Units whose window is closed (all arms), from the frame that holds the metric.
        events: Single events of these units where the metric is a quantile of events.
        cap: Largest value of a unit that counts; None for no cap.
    """

    metric: Metric
    frame: pl.DataFrame
    events: pl.DataFrame | None
    cap: float | None

    def pair(self, control: str, arm: str) -> MetricRows:
        """The rows of one comparison.

        Raises:
            EstimationError: IMMATURE where neither arm has a unit.
        """
        both = pl.col("arm").is_in([control, arm])
        frame = self.frame.filter(both)
        if frame.is_empty():
            raise EstimationError("IMMATURE", self.metric.name)
        events = None if self.events is None else self.events.filter(both)
        return MetricRows(metric=self.metric, frame=frame, events=events, cap=self.cap)

    def where(self, keep: pl.Expr) -> MetricRows:
        """The rows of some units: `keep` reads the columns of the unit frame."""
        frame = self.frame.filter(keep)
        events = self.events
        if events is not None:
            events = events.join(frame.select("unit"), on="unit", how="semi")
        return MetricRows(metric=self.metric, frame=frame, events=events, cap=self.cap)

    def outcomes(self) -> list[Vector]:
        """The capped value, or numerator and denominator, of every unit."""
        return [capped(vector(self.frame, name), self.cap) for name, _ in self.metric.columns]


def metric_rows(metric: Metric, frames: Frames, *, cap: float | None) -> MetricRows:
    """The closed windows of a metric."""
    frame = frames.of(metric).filter(pl.col(metric.columns[0][0]).is_not_null())
    events = None
    if metric.of_events:
        events = frames.events
        if events is None:
            raise EstimationError("IMMATURE", metric.name, "no events have landed")
        events = events.filter(pl.col("metric") == metric.name)
    return MetricRows(metric=metric, frame=frame, events=events, cap=cap)


def compare_arm(experiment: Experiment, rows: MetricRows, arm: str) -> MetricResult:
    """Compare one treatment arm with the control as the plan says.

    Raises:
        EstimationError: These data do not give the effect.
    """
    pair = rows.pair(experiment.control, arm)
    is_treated = treated(pair.frame, arm)
    scored = _plain(experiment, pair, is_treated, arm)
    plain = scored.contrast if isinstance(scored, ScoredContrast) else scored
    scores = scored.scores if isinstance(scored, ScoredContrast) else None
    adjusted = None
    if experiment.adjusts:
        adjusted = _adjusted(experiment, rows, pair, is_treated, scored)
        scores = adjusted.scores
    if scores is None:
        outcomes = pair.outcomes()
        if rows.metric.is_ratio:
            scores = ratio_scores(outcomes[0], outcomes[1], is_treated)
        else:
            scores = mean_scores(outcomes[0], is_treated)
    if not rows.metric.is_open_ended:
        return MetricResult(
            metric=rows.metric, arm=arm, plain=plain, adjusted=adjusted, scores=scores
        )
    return MetricResult(
        metric=rows.metric,
        arm=arm,
        plain=plain,
        adjusted=adjusted,
        scores=scores,
        units=pair.frame["unit"].to_numpy().astype(np.str_),
        is_treated=is_treated,
    )


def is_nearly_normal(result: MetricResult) -> bool:
    """Whether there are units enough for the asymptotic sequence, given their skewness."""
    difference = result.deciding.difference
    if min(difference.n_control, difference.n_treatment) < MIN_UNITS_PER_ARM:
        return False
    found = result.skewness
    if found is None:
        if result.scores is None:  # moments alone do not tell
            return True
        found = float((result.scores**3).sum()) / difference.std_error**3
    return abs(found) <= MAX_SKEWNESS


def compare_sums(
    experiment: Experiment, sums: Sums, metric: Metric, arm: str, part: Part = EVERYBODY
) -> MetricResult:
    """Compare two arms of an additive plan by the sums over their units.

    Args:
        experiment: The plan.
        sums: Of the look.
        metric: What is measured.
        arm: The treatment arm.
        part: The units that count.

    Raises:
        EstimationError: These data do not give the effect.
    """
    arms = sums.moments.get((metric.name, part))
    if arms is None or arms[experiment.control].n == arms[arm].n == 0:
        raise EstimationError("IMMATURE", metric.name)
    pair, alpha = (arms[experiment.control], arms[arm]), experiment.plan.alpha
    if metric.is_ratio:
        plain = compare_ratios(*pair, alpha=alpha)
    else:
        plain = compare_means(*pair, column="y", alpha=alpha)
    task = Task(metric.name, arm, part)
    lines, residuals = sums.lines[task], sums.residuals.get(task)
    if residuals is None:
        return MetricResult(metric=metric, arm=arm, plain=plain, adjusted=None)
    adjusted = None
    if experiment.adjusts:
        deciding = adjusted_from_sums(lines, residuals, plain, pair, alpha=alpha)
        ratio = deciding.difference.std_error / plain.difference.std_error
        adjusted = AdjustedContrast(
            adjusted=deciding,
            unadjusted=plain,
            variance_reduction=1 - ratio**2,
            correlation=first_covariate_correlation(lines, pair, f"pre_{metric.columns[0][0]}"),
            dropped_covariates=lines.dropped,
            scores=None,
        )
    return MetricResult(
        metric=metric, arm=arm, plain=plain, adjusted=adjusted, skewness=skewness(residuals)
    )


def compare_summaries(
    experiment: Experiment, summaries: Summaries, metric: Metric, arm: str
) -> MetricResult:
    """Compare two arms of which only the moments are known.

    Raises:
        EstimationError: IMMATURE before any moments have arrived, else as the estimators.
    """
    control = summaries.moments[metric.name, experiment.control]
    treatment = summaries.moments[metric.name, arm]
    if control.n == treatment.n == 0:
        raise EstimationError("IMMATURE", metric.name)
    compare = compare_ratios if metric.summary_ratio else compare_means
    plain = compare(control, treatment, alpha=experiment.plan.alpha)
    return MetricResult(metric=metric, arm=arm, plain=plain, adjusted=None, scores=None)


def _plain(
    experiment: Experiment, pair: MetricRows, is_treated: Mask, arm: str
) -> Contrast | ScoredContrast:
    """The unadjusted comparison; a scored one where it comes with scores."""
    metric, alpha = pair.metric, experiment.plan.alpha
    if metric.quantile is not None:
        return _quantile(pair, is_treated, arm, alpha=alpha)
    outcomes = pair.outcomes()
    if experiment.plan.cluster is not None:
        clusters = clusters_of(pair.frame, experiment.plan.cluster)
        denominator = outcomes[1] if metric.is_ratio else None
        return compare_clustered(
            outcomes[0], is_treated, clusters, alpha=alpha, denominator=denominator
        )
    arms = []
    for of_arm in (~is_treated, is_treated):
        values = [outcome[of_arm] for outcome in outcomes]
        names = ("numerator", "denominator") if metric.is_ratio else ("y",)
        arms.append(ArmMoments.from_arrays(**dict(zip(names, values, strict=True))))
    compare = compare_ratios if metric.is_ratio else compare_means
    return compare(arms[0], arms[1], alpha=alpha)


def _quantile(pair: MetricRows, is_treated: Mask, arm: str, *, alpha: float) -> ScoredContrast:
    q = pair.metric.quantile
    assert q is not None
    if pair.events is None:
        return compare_quantiles(pair.outcomes()[0], is_treated, q=q, alpha=alpha)
    events = pair.events
    return compare_quantiles(
        capped(vector(events, "value"), pair.cap),
        treated(events, arm),
        q=q,
        alpha=alpha,
        clusters=events["unit"].to_numpy(),
    )


def _adjusted(
    experiment: Experiment,
    rows: MetricRows,
    pair: MetricRows,
    is_treated: Mask,
    plain: Contrast | ScoredContrast,
) -> AdjustedContrast:
    metric, estimator, alpha = pair.metric, experiment.plan.estimator, experiment.plan.alpha
    outcomes = pair.outcomes()
    if estimator.kind == "post_stratified" and metric.quantile is None and not metric.is_ratio:
        assert not isinstance(plain, ScoredContrast)
        return _post_stratified(experiment, pair, is_treated, plain)
    matrix, names = covariates(experiment, rows)
    centre = matrix.mean(axis=0) if len(experiment.treatments) > 1 else None
    in_pair = rows.frame["arm"].is_in(pair.frame["arm"].unique().to_list()).to_numpy()
    own = matrix[in_pair]
    if metric.quantile is not None:
        assert isinstance(plain, ScoredContrast)
        units = _scored_units(pair)
        return augment(plain, is_treated[units], own[units], names=names, alpha=alpha)
    if metric.is_ratio:
        return compare_ratios_adjusted(
            outcomes[0], outcomes[1], is_treated, own, names=names, alpha=alpha
        )
    if estimator.kind == "pooled_theta":
        return cuped_pooled_theta(outcomes[0], is_treated, own[:, 0], name=names[0], alpha=alpha)
    formula = estimator.variance if isinstance(estimator, CupedEstimator) else "lin_hc2"
    return compare_adjusted(
        outcomes[0],
        is_treated,
        own,
        names=names,
        alpha=alpha,
        variance_formula=formula,
        centre=None if formula == "lin_superpop" else centre,
    )


def _scored_units(pair: MetricRows) -> NDArray[np.int64]:
    """Row of the unit frame for each score: units in order of their first event."""
    if pair.events is None:
        return np.arange(pair.frame.height)
    order = pair.events.select(pl.col("unit").unique(maintain_order=True))
    rows = pair.frame.select("unit").with_row_index("row")
    found: NDArray[np.int64] = (
        order.join(rows, on="unit", how="left", maintain_order="left")["row"].to_numpy()
    ).astype(np.int64)
    return found


def _post_stratified(
    experiment: Experiment, pair: MetricRows, is_treated: Mask, plain: Contrast
) -> AdjustedContrast:
    strata = strata_of(pair.frame, experiment.stratify_by)
    scored = compare_post_stratified(
        pair.outcomes()[0], is_treated, strata, alpha=experiment.plan.alpha
    )
    adjusted = scored.contrast
    ratio = adjusted.difference.std_error / plain.difference.std_error
    return AdjustedContrast(
        adjusted=adjusted,
        unadjusted=plain,
        variance_reduction=1 - ratio**2,
        correlation=None,
        dropped_covariates=(),
        scores=scored.scores,
    )


def strata_of(frame: pl.DataFrame, names: tuple[str, ...]) -> NDArray[np.str_]:
    """One label per unit from the properties of its first exposure."""
    labels = [text_labels(frame[f"segment_{name}"].to_list()) for name in names]
    joined: NDArray[np.str_] = labels[0]
    for more in labels[1:]:
        joined = np.char.add(np.char.add(joined, " / "), more)
    return joined


def clusters_of(frame: pl.DataFrame, name: str) -> NDArray[np.str_]:
    """The cluster of every unit; a unit without one is its own."""
    label = pl.coalesce(
        pl.lit("cluster ") + pl.col(f"segment_{name}"), pl.lit("unit ") + pl.col("unit")
    )
    return frame.select(label).to_series().to_numpy().astype(np.str_)


def covariates(experiment: Experiment, rows: MetricRows) -> tuple[Vector, tuple[str, ...]]:
    """The covariate matrix of all arms' rows, shape (n, p), and its names.

    The pre-period total of the metric (both parts of a ratio) comes first; then whether the unit
    has a pre-period at all, a prediction and the categories of the plan. Post-stratification of a
    ratio or a quantile adjusts by the strata alone.
    """
    frame, metric, estimator = rows.frame, rows.metric, experiment.plan.estimator
    if estimator.kind == "post_stratified":
        return design_columns({}, {"stratum": strata_of(frame, experiment.stratify_by).tolist()})
    scaled = None
    if rows.cap is not None:
        scaled = rows.cap * estimator.covariate_days / metric.window_days
    numeric = {
        f"pre_{name}": capped(vector(frame, f"pre_{name}"), scaled) for name, _ in metric.columns
    }
    if estimator.kind == "pooled_theta":
        return np.column_stack(list(numeric.values())), tuple(numeric)
    numeric["is_pre_missing"] = frame["is_pre_missing"].to_numpy().astype(np.float64)
    categories: dict[str, Any] = {}
    if isinstance(estimator, CupedEstimator):
        categories = {name: frame[f"segment_{name}"].to_list() for name in estimator.categories}
        if estimator.predict:
            numeric["predicted"] = _predicted(rows)
    return design_columns(numeric, categories)


def _predicted(rows: MetricRows) -> Vector:
    """What earlier behaviour predicts, trained one covariate window before exposure."""
    frame = rows.frame
    before = [name for name in frame.columns if name.startswith("lag_")]
    features = np.column_stack([vector(frame, name) for name in before])
    at = np.column_stack([vector(frame, f"pre_{name.removeprefix('lag_')}") for name in before])
    target = vector(frame, f"pre_{rows.metric.columns[0][0]}")
    units = frame["unit"].to_numpy().astype(np.str_)
    return out_of_fold_predictions(target, features, units, predict_at=at)


def vector(frame: pl.DataFrame, column: str) -> Vector:
    """A column as float64."""
    return frame[column].to_numpy().astype(np.float64)


def treated(frame: pl.DataFrame, arm: str) -> Mask:
    """Whether each row is of the treatment arm."""
    return (frame["arm"] == arm).to_numpy()


def capped(values: Vector, cap: float | None) -> Vector:
    """Values above the cap count as the cap."""
    return values if cap is None else np.minimum(values, cap)

"""Every estimator behind one signature, so that one property test reads them all.

`ESTIMATORS` maps a name to a function of (units, alpha) that returns a `Reading`. Where a property
of METHODS section 0 does not apply, `exempt` says why in a phrase.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace

import numpy as np

from experiments_dagster.stats import cells
from experiments_dagster.stats.methods.moments.equivalence import equivalence
from experiments_dagster.stats.methods.moments.fisher import fisher_exact
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.non_inferiority import non_inferiority
from experiments_dagster.stats.methods.moments.omnibus import welch_anova
from experiments_dagster.stats.methods.moments.proportion import compare_proportions
from experiments_dagster.stats.methods.moments.ratio import compare_ratios, linearised_t
from experiments_dagster.stats.methods.units.augmented import augment
from experiments_dagster.stats.methods.units.bootstrap import compare_by_bootstrap
from experiments_dagster.stats.methods.units.clustered import compare_clustered
from experiments_dagster.stats.methods.units.lin import compare_adjusted
from experiments_dagster.stats.methods.units.mann_whitney import compare_ranks
from experiments_dagster.stats.methods.units.permutation import permutation_test
from experiments_dagster.stats.methods.units.pooled_theta import (
    ancova_hc1,
    cuped_pooled_theta,
    cuped_within_theta,
)
from experiments_dagster.stats.methods.units.post_stratified import compare_post_stratified
from experiments_dagster.stats.methods.units.quantile import compare_quantiles
from experiments_dagster.stats.methods.units.ratio_adjusted import compare_ratios_adjusted
from experiments_dagster.stats.methods.units.transforms import compare_log_means
from experiments_dagster.stats.methods.units.trimmed import compare_trimmed
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import AdjustedContrast, Contrast, Estimate, ScoredContrast
from experiments_dagster.stats.sequential.confidence_sequence import (
    confidence_sequence,
    small_sample_sequence,
    tuning_information,
)

MARGIN = 0.25  # of the margin tests, in the unit of y
RELATIVE_MARGIN = 0.1
REPLICATES = 1000  # 50/α at α = 0.05; scaled with α below
SEED = 7

PROPERTIES = ("swap", "shift", "scale", "order", "duality", "scores")


@dataclass(frozen=True, kw_only=True)
class Units:
    """Columns of randomised units; `unit` is what a change of the unit of y multiplied it by."""

    y: np.ndarray
    numerator: np.ndarray
    denominator: np.ndarray
    is_treated: np.ndarray
    x: np.ndarray
    stratum: np.ndarray
    few: np.ndarray  # labels of 8 to 14 clusters
    some: np.ndarray  # of 15 to 49
    many: np.ndarray  # of 50 or more
    key: np.ndarray
    bought: np.ndarray  # zeros and ones
    unit: float = 1.0

    def __repr__(self):
        return f"Units(n={len(self.y)}, unit={self.unit:g})"

    def swapped(self):
        return replace(self, is_treated=~self.is_treated)

    def shifted(self, constant):
        """y + c, and N + cD: both arm values move by c."""
        return replace(
            self, y=self.y + constant, numerator=self.numerator + constant * self.denominator
        )

    def scaled(self, k):
        return replace(self, y=self.y * k, numerator=self.numerator * k, unit=self.unit * k)

    def taken(self, rows):
        """The rows of an index or mask, in its order."""
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "unit"}
        return replace(self, **columns)

    def arms(self, *names):
        """Moments of control and treatment."""
        return tuple(
            ArmMoments.from_arrays(**{name: getattr(self, name)[rows] for name in names})
            for rows in (~self.is_treated, self.is_treated)
        )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What an estimator said, whatever its record.

    `excludes` tells whether the limits exclude the null that `p_value` tests. `records` are all the
    records returned, for the walk over their numbers.
    """

    effect: float | None = None
    std_error: float | None = None
    p_value: float | None = None
    limits: tuple = (None, None)
    means: tuple | None = None
    lift: Estimate | None = None
    scores: np.ndarray | None = None
    excludes: bool | None = None
    records: tuple = ()


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """One row of the table.

    Args:
        run: From units and alpha to a reading.
        exempt: Property to the reason why it does not apply.
        power: Effect and error are multiplied by k to this power.
        leverage: Sum of the leverages, where scores are divided by functions of 1 − h: then they
            sum to zero only up to SE·√leverage (Cauchy-Schwarz on ψ(1 − √(1 − h))).
        largest_shift: Beyond it the rounding of moments is seen. The variance of a ratio is
            s_N² + R²s_D² − 2R s_ND: shifted by c it cancels to 1/c² of its parts.
    """

    run: Callable
    exempt: Mapping = field(default_factory=dict)
    power: int = 1
    leverage: float = 0.0
    largest_shift: int = 1_000_000


def units_of(y, is_treated, seed=0, **columns):
    """Units with an outcome as given and everything else made up from a seed."""
    y, is_treated = np.asarray(y, dtype=np.float64), np.asarray(is_treated, dtype=np.bool_)
    rng = np.random.default_rng(seed)
    n = len(y)
    position = np.where(is_treated, np.cumsum(is_treated), np.cumsum(~is_treated)) - 1
    label = 2 * position + is_treated
    made = {
        "numerator": y,
        "denominator": rng.integers(1, 5, n).astype(np.float64),
        "x": np.round(rng.normal(size=n) * 64) / 16,
        "stratum": np.array(["a", "b", "c"])[rng.integers(0, 3, n)],
        "few": label % 12,
        "some": label % 30,
        "many": label % 60,
        "key": rng.permutation(n),
        "bought": (rng.random(n) < 0.3 + 0.2 * is_treated).astype(np.float64),
    }
    return Units(y=y, is_treated=is_treated, **(made | columns))


def numbers_in(record):
    """Every float in a record, records inside records included, with its name."""
    for f in fields(record):
        value = getattr(record, f.name)
        if is_dataclass(value):
            yield from numbers_in(value)
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            yield from ((f.name, float(number)) for number in value.ravel())
        elif isinstance(value, float | np.floating):
            yield f.name, float(value)


def _of_estimate(estimate, *, lift=None, scores=None, records=()):
    low, high = estimate.ci_low, estimate.ci_high
    excludes = None
    if estimate.p_value is not None:
        excludes = (low is not None and low > 0) or (high is not None and high < 0)
    return Reading(
        effect=estimate.estimate,
        std_error=estimate.std_error,
        p_value=estimate.p_value,
        limits=(low, high),
        means=(estimate.control_mean, estimate.treatment_mean),
        lift=lift,
        scores=scores,
        excludes=excludes,
        records=records or (estimate,),
    )


def _of(record):
    """Reading of any record with a difference."""
    if isinstance(record, Estimate):
        return _of_estimate(record)
    scores = None if isinstance(record, Contrast) else record.scores
    contrast = record
    if isinstance(record, AdjustedContrast):
        contrast = record.adjusted
    elif isinstance(record, ScoredContrast):
        contrast = record.contrast
    return _of_estimate(
        contrast.difference, lift=contrast.relative, scores=scores, records=(record,)
    )


def _means(units, alpha, **options):
    return compare_means(*units.arms("y"), alpha=alpha, **options)


def _ratios(units, alpha):
    return compare_ratios(*units.arms("numerator", "denominator"), alpha=alpha)


def _proportions(units, alpha):
    return _of(compare_proportions(*units.arms("bought"), column="bought", alpha=alpha))


def _fisher(units, _alpha):
    arms = [units.bought[rows] for rows in (~units.is_treated, units.is_treated)]
    test = fisher_exact(*(number for arm in arms for number in (int(arm.sum()), len(arm))))
    return Reading(
        effect=math.log(test.odds_ratio) if test.odds_ratio else None,
        p_value=test.p_value,
        records=(test,),
    )


def _adjusted(formula):
    def run(units, alpha):
        x = np.column_stack([units.x, units.denominator])
        names = ["x", "denominator"]
        return _of(
            compare_adjusted(
                units.y,
                units.is_treated,
                x,
                names=names,
                alpha=alpha,
                variance_formula=formula,
            )
        )

    return run


def _ratios_adjusted(units, alpha):
    return _of(
        compare_ratios_adjusted(
            units.numerator,
            units.denominator,
            units.is_treated,
            units.x[:, None],
            names=["x"],
            alpha=alpha,
        )
    )


def _one_covariate(estimator):
    return lambda units, alpha: _of(estimator(units.y, units.is_treated, units.x, alpha=alpha))


def _augmented(scored_of):
    def run(units, alpha):
        return _of(
            augment(
                scored_of(units, alpha),
                units.is_treated,
                units.x[:, None],
                names=["x"],
                alpha=alpha,
            )
        )

    return run


def _scored(contrast, linearised, is_treated):
    """Scores of a difference from the linearised outcome, which has mean zero in each arm."""
    scores = np.empty(len(linearised))
    for sign, rows in ((-1, ~is_treated), (1, is_treated)):
        n = int(rows.sum())
        scores[rows] = sign * linearised[rows] / math.sqrt(n * (n - 1))
    return ScoredContrast(contrast=contrast, scores=scores)


def _scored_means(units, alpha):
    contrast = _means(units, alpha)
    centred = units.y.copy()
    for rows in (~units.is_treated, units.is_treated):
        centred[rows] -= units.y[rows].mean()
    return _scored(contrast, centred, units.is_treated)


def _scored_ratios(units, alpha):
    contrast = _ratios(units, alpha)
    linearised = np.empty(len(units.y))
    for rows in (~units.is_treated, units.is_treated):
        top, bottom = units.numerator[rows], units.denominator[rows]
        linearised[rows] = (top - top.mean() / bottom.mean() * bottom) / bottom.mean()
    return _scored(contrast, linearised, units.is_treated)


def _quantiles(q=0.5, *, events=False, **options):
    def run(units, alpha):
        clusters = units.many if events else None
        return compare_quantiles(
            units.y, units.is_treated, q=q, alpha=alpha, clusters=clusters, **options
        )

    return run


def _clustered(labels):
    def run(units, alpha):
        record = compare_clustered(
            units.y,
            units.is_treated,
            getattr(units, labels),
            alpha=alpha,
        )
        return _of(record)

    return run


def _clustered_ratio(units, alpha):
    return _of(
        compare_clustered(
            units.numerator,
            units.is_treated,
            units.many,
            alpha=alpha,
            denominator=units.denominator,
        )
    )


def _bootstrap(statistic="mean", **options):
    def run(units, alpha):
        return _of(
            compare_by_bootstrap(
                units.numerator if statistic == "ratio" else units.y,
                units.is_treated,
                unit_keys=units.key,
                statistic=statistic,
                denominator=units.denominator if statistic == "ratio" else None,
                replicates=max(REPLICATES, math.ceil(50 / alpha)),
                seed=SEED,
                alpha=alpha,
                **options,
            )
        )

    return run


def _permutation(**labels):
    def run(units, _alpha):
        record = permutation_test(
            units.y,
            units.is_treated,
            replicates=199,
            seed=SEED,
            **{name: getattr(units, column) for name, column in labels.items()},
        )
        return Reading(
            effect=record.estimate,
            std_error=record.std_error,
            p_value=record.p_value,
            means=(record.control_mean, record.treatment_mean),
            records=(record,),
        )

    return run


def _equivalence(*, relative):
    def run(units, alpha):
        margin = RELATIVE_MARGIN if relative else MARGIN * units.unit
        record = equivalence(_means(units, alpha), margin=margin, relative=relative, alpha=alpha)
        excludes = None
        if record.ci_low is not None and record.ci_high is not None:
            excludes = -margin < record.ci_low and record.ci_high < margin
        return Reading(
            p_value=record.p_value,
            limits=(record.ci_low, record.ci_high),
            excludes=excludes,
            records=(record,),
        )

    return run


def _non_inferiority(*, relative, higher_is_better):
    def run(units, alpha):
        margin = RELATIVE_MARGIN if relative else MARGIN * units.unit
        record = non_inferiority(
            _means(units, alpha),
            margin=margin,
            higher_is_better=higher_is_better,
            relative=relative,
            alpha=alpha,
        )
        sign = 1 if higher_is_better else -1
        excludes = None if record.bound is None else sign * record.bound > -margin
        return Reading(
            p_value=record.p_value,
            limits=(record.bound, record.bound),
            excludes=excludes,
            records=(record,),
        )

    return run


def _anova(units, _alpha):
    record = welch_anova(units.arms("y"))
    return Reading(effect=record.statistic, p_value=record.p_value, records=(record,))


def _of_cells(contrast):
    """The single cell of a contrast of cells; its code is raised as the scalar functions do."""
    difference = contrast.difference
    code = str(difference.reason[0])
    if code:
        from experiments_dagster.stats.errors import EstimationError

        raise EstimationError(code, "cell")
    low, high = float(difference.ci_low[0]), float(difference.ci_high[0])
    return Reading(
        effect=float(difference.estimate[0]),
        std_error=float(difference.std_error[0]),
        p_value=float(difference.p_value[0]),
        limits=(low, high),
        means=(float(contrast.control_mean[0]), float(contrast.treatment_mean[0])),
        excludes=low > 0 or high < 0,
        records=(_Cell(*(float(getattr(difference, name)[0]) for name in _Cell.__slots__)),),
    )


@dataclass(frozen=True, slots=True)
class _Cell:
    estimate: float
    std_error: float
    ci_low: float
    ci_high: float
    p_value: float


def mean_cell(arm):
    """Moments of column y as the one cell of `cells.MeanCells`."""
    variance = arm.variance("y") if arm.n > 1 else 0.0
    return cells.MeanCells(n=[arm.n], mean=arm.means, variance=[variance])


def pair_cell(arm):
    """Moments of two columns as the one cell of `cells.PairCells`."""
    covariance = arm.cross / max(arm.n - 1, 1)
    return cells.PairCells(
        n=[arm.n],
        mean=arm.means[:1],
        variance=[covariance[0, 0]],
        mean_second=arm.means[1:],
        variance_second=[covariance[1, 1]],
        covariance=[covariance[0, 1]],
    )


def _mean_cells(units, alpha):
    arms = map(mean_cell, units.arms("y"))
    return _of_cells(cells.compare_mean_cells(*arms, alpha=alpha))


def _ratio_cells(units, alpha):
    arms = map(pair_cell, units.arms("numerator", "denominator"))
    return _of_cells(cells.compare_ratio_cells(*arms, alpha=alpha))


def _adjusted_cells(units, alpha):
    arms = map(pair_cell, units.arms("y", "x"))
    return _of_cells(cells.compare_adjusted_cells(*arms, alpha=alpha).adjusted)


def _sequence(sides):
    def run(units, alpha):
        difference = _means(units, alpha).difference
        g = tuning_information(100.0, alpha, sides=sides) / units.unit / units.unit
        point = confidence_sequence(
            difference.estimate, difference.std_error, g=g, alpha=alpha, sides=sides
        )
        return _of_point(difference, point)

    return run


def _small_sequence(units, alpha):
    difference = _means(units, alpha).difference
    point = small_sample_sequence(
        difference.estimate,
        difference.std_error,
        df=len(units.y) - 2,
        n=len(units.y),
        g=tuning_information(100.0, alpha),
        alpha=alpha,
    )
    return _of_point(difference, point)


def _of_point(difference, point):
    return Reading(
        effect=difference.estimate,
        std_error=difference.std_error,
        p_value=point.p_value,
        limits=(point.low, point.high),
        excludes=point.low > 0 or (point.high is not None and point.high < 0),
        records=(point,),
    )


NO_SCORES = {"scores": "returns moments, no scores"}
COUNTS = {
    "shift": "counts have no shift",
    "scale": "counts have no unit",
} | NO_SCORES
NO_INTERVAL = {"duality": "a test without an interval"}
SHARE_OF_MEAN = {
    "swap": "the margin is a share of the control mean",
    "shift": "the margin is a share of the control mean",
}
ONE_SIDED = {"swap": "one-sided: swapped with its direction in a test of its own"}

ESTIMATORS = {
    "compare_means": Estimator(run=lambda u, a: _of(_means(u, a)), exempt=NO_SCORES),
    "compare_means_normal": Estimator(
        run=lambda u, a: _of(_means(u, a, distribution="normal")), exempt=NO_SCORES
    ),
    "compare_proportions": Estimator(run=_proportions, exempt=COUNTS),
    "compare_ratios": Estimator(
        run=lambda u, a: _of(_ratios(u, a)), exempt=NO_SCORES, largest_shift=100
    ),
    "linearised_t": Estimator(
        run=lambda u, a: _of(linearised_t(*u.arms("numerator", "denominator"), alpha=a)),
        exempt={"swap": "linearised at the ratio of control"} | NO_SCORES,
        largest_shift=100,
    ),
    "lin_hc2": Estimator(run=_adjusted("lin_hc2"), leverage=6),
    "hc3": Estimator(run=_adjusted("hc3"), leverage=6),
    "lin_superpop": Estimator(run=_adjusted("lin_superpop"), leverage=6),
    "compare_ratios_adjusted": Estimator(run=_ratios_adjusted, leverage=4),
    "cuped_pooled_theta": Estimator(run=_one_covariate(cuped_pooled_theta)),
    "cuped_within_theta": Estimator(run=_one_covariate(cuped_within_theta)),
    "ancova_hc1": Estimator(run=_one_covariate(ancova_hc1)),
    "augmented_mean": Estimator(run=_augmented(_scored_means), leverage=4),
    "augmented_ratio": Estimator(run=_augmented(_scored_ratios), leverage=4, largest_shift=100),
    "augmented_quantile": Estimator(run=_augmented(_quantiles()), leverage=4),
    "compare_post_stratified": Estimator(
        run=lambda u, a: _of(compare_post_stratified(u.y, u.is_treated, u.stratum, alpha=a))
    ),
    "clustered_means": Estimator(run=_clustered("few")),
    "clustered_ols": Estimator(run=_clustered("some"), leverage=2),
    "clustered_ratio": Estimator(run=_clustered("many"), leverage=2),
    "clustered_ratio_of_totals": Estimator(run=_clustered_ratio, leverage=2),
    "quantile_outer": Estimator(run=lambda u, a: _of(_quantiles()(u, a))),
    "quantile_kernel": Estimator(run=lambda u, a: _of(_quantiles(variance_formula="kernel")(u, a))),
    "quantile_of_events": Estimator(run=lambda u, a: _of(_quantiles(events=True)(u, a))),
    "quantile_of_events_kernel": Estimator(
        run=lambda u, a: _of(_quantiles(0.6, events=True, variance_formula="kernel")(u, a))
    ),
    "bootstrap_percentile": Estimator(run=_bootstrap(), exempt=NO_SCORES),
    "bootstrap_t": Estimator(run=_bootstrap(interval="t"), exempt=NO_SCORES),
    "bootstrap_ratio": Estimator(run=_bootstrap("ratio"), exempt=NO_SCORES),
    "bootstrap_buckets": Estimator(
        run=_bootstrap(scheme="buckets"),
        exempt={"swap": "a bucket draws its own weight in each arm"} | NO_SCORES,
    ),
    "compare_ranks": Estimator(
        run=lambda u, a: _of(compare_ranks(u.y, u.is_treated, alpha=a)),
        power=0,
        exempt=NO_SCORES,
    ),
    "permutation_enumerated": Estimator(
        run=_permutation(clusters="few"), exempt=NO_INTERVAL | NO_SCORES
    ),
    "permutation_drawn": Estimator(
        run=_permutation(),
        exempt={"order": "the draws are of positions"} | NO_INTERVAL | NO_SCORES,
    ),
    "permutation_in_blocks": Estimator(
        run=_permutation(blocks="stratum"),
        exempt={"order": "the draws are of positions"} | NO_INTERVAL | NO_SCORES,
    ),
    "compare_log_means": Estimator(
        run=lambda u, a: _of(compare_log_means(np.abs(u.y), u.is_treated, alpha=a)),
        exempt={
            "shift": "logs are not shift invariant",
            "scale": "log(1 + y) has the unit of y inside",
        },
    ),
    "compare_trimmed": Estimator(
        run=lambda u, a: _of(compare_trimmed(u.y, u.is_treated, alpha=a)), exempt=NO_SCORES
    ),
    "fisher_exact": Estimator(run=_fisher, exempt=COUNTS | NO_INTERVAL),
    "equivalence": Estimator(run=_equivalence(relative=False), exempt=NO_SCORES),
    "equivalence_relative": Estimator(
        run=_equivalence(relative=True), power=0, exempt=SHARE_OF_MEAN | NO_SCORES
    ),
    "non_inferiority": Estimator(
        run=_non_inferiority(relative=False, higher_is_better=True),
        exempt=ONE_SIDED | NO_SCORES,
    ),
    "non_inferiority_of_a_cost": Estimator(
        run=_non_inferiority(relative=False, higher_is_better=False),
        exempt=ONE_SIDED | NO_SCORES,
    ),
    "non_inferiority_relative": Estimator(
        run=_non_inferiority(relative=True, higher_is_better=True),
        power=0,
        exempt=SHARE_OF_MEAN | NO_SCORES,
    ),
    "welch_anova": Estimator(
        run=_anova,
        power=0,
        exempt={"swap": "F has no sign: same in a test of its own"} | NO_INTERVAL | NO_SCORES,
    ),
    "mean_cells": Estimator(run=_mean_cells, exempt=NO_SCORES),
    "ratio_cells": Estimator(run=_ratio_cells, exempt=NO_SCORES, largest_shift=100),
    "adjusted_cells": Estimator(run=_adjusted_cells, exempt=NO_SCORES),
    "confidence_sequence": Estimator(run=_sequence(2), exempt=NO_SCORES),
    "confidence_sequence_one_sided": Estimator(
        run=_sequence(1), exempt={"swap": "bounds the effect from below only"} | NO_SCORES
    ),
    "small_sample_sequence": Estimator(run=_small_sequence, exempt=NO_SCORES),
}


def names_with(prop):
    """Estimators to which a property applies."""
    return [name for name, row in ESTIMATORS.items() if prop not in row.exempt]

"""The methods of `experiments compare`: from the rows of two arms to one comparison.

Each method names the kinds of metric it serves, the optional columns it takes or needs, and the
estimand of its first row. What the flags mean and how a file is read does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import ArmSummary, difference_estimate
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.proportion import (
    compare_proportions,
    newcombe_interval,
)
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import AdjustedContrast, Contrast, Estimate, ScoredContrast

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]
Number = TypeVar("Number", np.float64, np.int64)

TRIM = 0.2  # share cut off at each end of an arm by Yuen's test
DEFAULT_REPLICATES = {"bootstrap": 2000, "permutation": 1999}


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Rows of the arms compared: units, or events of the units in `clusters`.

    `y` is the outcome or the numerator. Vectors have shape (n,), `covariates` (n, p). `centre` is
    the mean of the covariates over all arms, None where there are only two.
    """

    y: Vector
    denominator: Vector | None = None
    clusters: Codes | None = None
    strata: Codes | None = None
    covariates: Vector | None = None
    names: tuple[str, ...] = ()
    centre: Vector | None = None

    def rows(self, chosen: Mask) -> Units:
        """Some of the rows."""
        return replace(
            self,
            y=self.y[chosen],
            denominator=_taken(self.denominator, chosen),
            clusters=_taken(self.clusters, chosen),
            strata=_taken(self.strata, chosen),
            covariates=_taken(self.covariates, chosen),
        )


def _taken(column: NDArray[Number] | None, chosen: Mask) -> NDArray[Number] | None:
    return None if column is None else column[chosen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The rows of the control and one treatment."""

    units: Units
    is_treated: Mask

    def moments(self) -> tuple[ArmMoments, ArmMoments]:
        """Moments of control and treatment: of y, or of numerator and denominator."""
        columns = {"y": self.units.y}
        if self.units.denominator is not None:
            columns = {"numerator": self.units.y, "denominator": self.units.denominator}
        control, treatment = (
            ArmMoments.from_arrays(**{name: values[rows] for name, values in columns.items()})
            for rows in (~self.is_treated, self.is_treated)
        )
        return control, treatment

    def successes(self) -> tuple[int, int, int, int]:
        """Successes and units in control, then in treatment, of a column of zeros and ones."""
        n_treatment = int(self.is_treated.sum())
        return (
            int(self.units.y[~self.is_treated].sum()),
            len(self.is_treated) - n_treatment,
            int(self.units.y[self.is_treated].sum()),
            n_treatment,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Numbers that methods need beside the rows."""

    kind: str
    alpha: float
    quantile: float = 0.5
    replicates: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a method found: the difference first, then the lift and intervals for display.

    `lift_reason` says why an expected lift is absent. `contrast` is there where estimate over
    standard error is a normal or t score, so that families and margins can be tested with it;
    `margin_contrast` replaces it for margins where its variance holds only without an effect.
    """

    estimates: tuple[Estimate, ...]
    lift_reason: str | None = None
    contrast: Contrast | None = None
    margin_contrast: Contrast | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How to run a method, and what it goes with."""

    run: Callable[[Pair, Settings], Comparison]
    kinds: tuple[str, ...]
    takes: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    gives_contrast: bool = True
    estimand: str = "difference"


def _comparison(
    contrast: Contrast,
    *beside: Estimate,
    is_score: bool = True,
    margin_contrast: Contrast | None = None,
    details: Mapping[str, Any] | None = None,
) -> Comparison:
    relative = () if contrast.relative is None else (contrast.relative,)
    return Comparison(
        estimates=(contrast.difference, *relative, *beside),
        lift_reason=contrast.relative_reason,
        contrast=contrast if is_score else None,
        margin_contrast=margin_contrast or (contrast if is_score else None),
        details=details or {},
    )


def _welch(pair: Pair, settings: Settings) -> Comparison:
    contrast = compare_means(*pair.moments(), alpha=settings.alpha)
    if settings.kind != "proportion":
        return _comparison(contrast)
    return _comparison(contrast, _newcombe(pair, contrast.difference, settings.alpha))


def _pooled_z(pair: Pair, settings: Settings) -> Comparison:
    moments = pair.moments()
    contrast = compare_proportions(*moments, alpha=settings.alpha)
    return _comparison(
        contrast,
        _newcombe(pair, contrast.difference, settings.alpha),
        margin_contrast=compare_means(*moments, alpha=settings.alpha),
    )


def _newcombe(pair: Pair, difference: Estimate, alpha: float) -> Estimate:
    """Newcombe's interval around a difference of proportions, for display without a p-value."""
    low, high = newcombe_interval(*pair.successes(), alpha=alpha)
    return replace(
        difference,
        method="newcombe",
        ci_low=low,
        ci_high=high,
        p_value=None,
        degrees_of_freedom=None,
        interval="newcombe",
    )


def _fisher(pair: Pair, settings: Settings) -> Comparison:
    """Fisher's p-value beside Newcombe's interval, which is another test's."""
    from experiments_dagster.stats.methods.moments.fisher import fisher_exact

    plain = compare_proportions(*pair.moments(), alpha=settings.alpha).difference
    test = fisher_exact(*pair.successes())
    exact = replace(_newcombe(pair, plain, settings.alpha), method="fisher", p_value=test.p_value)
    return Comparison(estimates=(exact,), details={"odds_ratio": test.odds_ratio})


def _delta(pair: Pair, settings: Settings) -> Comparison:
    return _comparison(compare_ratios(*pair.moments(), alpha=settings.alpha))


def _lin(pair: Pair, settings: Settings) -> Comparison:
    from experiments_dagster.stats.methods.units.lin import compare_adjusted
    from experiments_dagster.stats.methods.units.ratio_adjusted import compare_ratios_adjusted

    units = pair.units
    assert units.covariates is not None
    if units.denominator is not None:
        return _adjusted(
            compare_ratios_adjusted(
                units.y,
                units.denominator,
                pair.is_treated,
                units.covariates,
                names=units.names,
                alpha=settings.alpha,
            )
        )
    return _adjusted(
        compare_adjusted(
            units.y,
            pair.is_treated,
            units.covariates,
            names=units.names,
            alpha=settings.alpha,
            centre=units.centre,
        )
    )


def _theta(which: Literal["pooled", "within"]) -> Callable[[Pair, Settings], Comparison]:
    def run(pair: Pair, settings: Settings) -> Comparison:
        from experiments_dagster.stats.methods.units import pooled_theta

        compare = getattr(pooled_theta, f"cuped_{which}_theta")
        units = pair.units
        assert units.covariates is not None
        if units.covariates.shape[1] != 1:
            msg = (
                f"--method {which}_theta takes one covariate without missing values, "
                f"--covariates give {', '.join(units.names)}; use lin"
            )
            raise ValueError(msg)
        return _adjusted(
            compare(
                units.y,
                pair.is_treated,
                units.covariates[:, 0],
                name=units.names[0],
                alpha=settings.alpha,
            )
        )

    return run


def _adjusted(result: AdjustedContrast) -> Comparison:
    return _comparison(
        result.adjusted,
        details={
            "variance_reduction": result.variance_reduction,
            "dropped_covariates": list(result.dropped_covariates),
        },
    )


def _post_stratified(pair: Pair, settings: Settings) -> Comparison:
    from experiments_dagster.stats.methods.units.post_stratified import compare_post_stratified

    assert pair.units.strata is not None
    result = compare_post_stratified(
        pair.units.y, pair.is_treated, pair.units.strata, alpha=settings.alpha
    )
    return _comparison(result.contrast, details={"n_strata": result.n_strata})


def _clustered(pair: Pair, settings: Settings) -> Comparison:
    from experiments_dagster.stats.methods.units.clustered import compare_clustered

    assert pair.units.clusters is not None
    result = compare_clustered(
        pair.units.y,
        pair.is_treated,
        pair.units.clusters,
        alpha=settings.alpha,
        denominator=pair.units.denominator,
    )
    beside = () if result.cluster_robust is None else (result.cluster_robust,)
    is_score = result.contrast.difference.inference != "randomization"
    return _comparison(result.contrast, *beside, is_score=is_score)


def _quantile(
    variance_formula: Literal["outer", "kernel"],
) -> Callable[[Pair, Settings], Comparison]:
    def run(pair: Pair, settings: Settings) -> Comparison:
        contrast = _scored_quantile(pair, settings, variance_formula).contrast
        return _comparison(contrast, is_score=contrast.difference.p_value is not None)

    return run


def _scored_quantile(
    pair: Pair, settings: Settings, variance_formula: Literal["outer", "kernel"]
) -> ScoredContrast:
    from experiments_dagster.stats.methods.units.quantile import compare_quantiles

    return compare_quantiles(
        pair.units.y,
        pair.is_treated,
        q=settings.quantile,
        alpha=settings.alpha,
        clusters=pair.units.clusters,
        variance_formula=variance_formula,
    )


def _augmented(pair: Pair, settings: Settings) -> Comparison:
    """The quantile adjusted by covariates of the units."""
    from experiments_dagster.stats.methods.units.augmented import augment

    units, is_treated = pair.units, pair.is_treated
    assert units.covariates is not None
    covariates = units.covariates
    if units.clusters is not None:
        _, first, codes = np.unique(units.clusters, return_index=True, return_inverse=True)
        if (covariates[first][codes] != covariates).any():
            msg = "--covariates: values change within a unit of --cluster, need one value per unit"
            raise ValueError(msg)
        # The scores of events come in the order in which their units first appear.
        first = np.sort(first)
        covariates, is_treated = covariates[first], is_treated[first]
    scored = _scored_quantile(pair, settings, "outer")
    return _adjusted(
        augment(scored, is_treated, covariates, names=units.names, alpha=settings.alpha)
    )


def _ranks(pair: Pair, settings: Settings) -> Comparison:
    from experiments_dagster.stats.methods.units.mann_whitney import compare_ranks

    estimate = compare_ranks(pair.units.y, pair.is_treated, alpha=settings.alpha)
    return Comparison(estimates=(estimate,))


def _logs(pair: Pair, settings: Settings) -> Comparison:
    from experiments_dagster.stats.methods.units.transforms import compare_log_means

    scored = compare_log_means(pair.units.y, pair.is_treated, alpha=settings.alpha)
    return Comparison(estimates=(scored.contrast.difference,))


def _trimmed(pair: Pair, settings: Settings) -> Comparison:
    from experiments_dagster.stats.methods.units.trimmed import compare_trimmed

    estimate = compare_trimmed(pair.units.y, pair.is_treated, trim=TRIM, alpha=settings.alpha)
    return Comparison(estimates=(estimate,), details={"trim": TRIM})


def _bootstrap(pair: Pair, settings: Settings) -> Comparison:
    from experiments_dagster.stats.methods.units.bootstrap import compare_by_bootstrap

    contrast = compare_by_bootstrap(
        pair.units.y,
        pair.is_treated,
        unit_keys=pair.units.clusters,
        statistic="mean" if pair.units.denominator is None else "ratio",
        denominator=pair.units.denominator,
        replicates=settings.replicates,
        seed=settings.seed,
        alpha=settings.alpha,
    )
    details = {"replicates": settings.replicates, "seed": settings.seed}
    return _comparison(contrast, is_score=False, details=details)


def _permutation(pair: Pair, settings: Settings) -> Comparison:
    """The randomisation p-value beside the interval of another test."""
    from experiments_dagster.stats.methods.units.permutation import permutation_test

    result = permutation_test(
        pair.units.y,
        pair.is_treated,
        blocks=pair.units.strata,
        clusters=pair.units.clusters,
        replicates=settings.replicates,
        seed=settings.seed,
    )
    if pair.units.strata is None:
        interval, plain = "welch", _welch_of_clusters(pair, settings.alpha)
    else:
        if result.std_error == 0:
            raise EstimationError("ZERO_VARIANCE", "difference within blocks")
        interval = "normal"
        plain = difference_estimate(
            result.estimate,
            result.std_error,
            arms=ArmSummary(
                control_mean=result.control_mean,
                treatment_mean=result.treatment_mean,
                n_control=result.n_control,
                n_treatment=result.n_treatment,
            ),
            alpha=settings.alpha,
            method="permutation",
            variance_formula="block_effects",
        )
    estimate = replace(
        plain,
        inference="randomization",
        method="permutation",
        p_value=result.p_value,
        interval=interval,
    )
    details = {
        "replicates": result.replicates,
        "seed": settings.seed,
        "is_exact": result.is_exact,
    }
    return Comparison(estimates=(estimate,), details=details)


def _welch_of_clusters(pair: Pair, alpha: float) -> Estimate:
    """Welch's test of units, or of the means of clusters."""
    if pair.units.clusters is not None:
        _, first, codes = np.unique(pair.units.clusters, return_index=True, return_inverse=True)
        means = np.bincount(codes, pair.units.y) / np.bincount(codes)
        pair = Pair(units=Units(y=means), is_treated=pair.is_treated[first])
    return compare_means(*pair.moments(), alpha=alpha).difference


MEANS = ("mean", "proportion")
COVARIATES, STRATA, CLUSTER = "covariates", "strata", "cluster"

METHODS: dict[str, Method] = {
    "welch": Method(run=_welch, kinds=MEANS),
    "pooled_z": Method(run=_pooled_z, kinds=("proportion",)),
    "delta": Method(run=_delta, kinds=("ratio",)),
    "outer": Method(
        run=_quantile("outer"),
        kinds=("quantile",),
        takes=frozenset({CLUSTER}),
        estimand="quantile_difference",
    ),
    "kernel": Method(
        run=_quantile("kernel"),
        kinds=("quantile",),
        takes=frozenset({CLUSTER}),
        estimand="quantile_difference",
    ),
    "augmented": Method(
        run=_augmented,
        kinds=("quantile",),
        takes=frozenset({CLUSTER}),
        needs=frozenset({COVARIATES}),
        estimand="quantile_difference",
    ),
    "lin": Method(run=_lin, kinds=(*MEANS, "ratio"), needs=frozenset({COVARIATES})),
    "pooled_theta": Method(run=_theta("pooled"), kinds=MEANS, needs=frozenset({COVARIATES})),
    "within_theta": Method(run=_theta("within"), kinds=MEANS, needs=frozenset({COVARIATES})),
    "post_stratified": Method(run=_post_stratified, kinds=MEANS, needs=frozenset({STRATA})),
    "clustered": Method(run=_clustered, kinds=(*MEANS, "ratio"), needs=frozenset({CLUSTER})),
    "mann_whitney": Method(
        run=_ranks, kinds=("mean",), gives_contrast=False, estimand="probability_of_superiority"
    ),
    "log1p": Method(
        run=_logs, kinds=("mean",), gives_contrast=False, estimand="log_mean_difference"
    ),
    "trimmed": Method(
        run=_trimmed, kinds=("mean",), gives_contrast=False, estimand="trimmed_mean_difference"
    ),
    "fisher": Method(run=_fisher, kinds=("proportion",), gives_contrast=False),
    "bootstrap": Method(
        run=_bootstrap,
        kinds=(*MEANS, "ratio"),
        takes=frozenset({CLUSTER}),
        gives_contrast=False,
    ),
    "permutation": Method(
        run=_permutation,
        kinds=MEANS,
        takes=frozenset({CLUSTER, STRATA}),
        gives_contrast=False,
    ),
}

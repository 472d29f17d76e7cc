"""Treated against untreated units by several estimators: what an observational study rests on.

Estimators and their formulas stand in `causal.units`; refutations in `observational`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from experiments_dagster.causal.units.balance import BalanceTable, balance_table
from experiments_dagster.causal.units.doubly_robust import (
    DoublyRobustEffect,
    doubly_robust_effect,
)
from experiments_dagster.causal.units.matching import (
    MatchedEffect,
    Matching,
    match_nearest,
    matched_effect,
)
from experiments_dagster.causal.units.propensity import (
    Propensity,
    require_overlap,
)
from experiments_dagster.causal.units.weighting import Target, WeightedEffect, weighted_effect
from experiments_dagster.config.intervention import ObservationalDesign
from experiments_dagster.interventions.study_data import BoolArray, FloatArray, Units
from experiments_dagster.stats.errors import EstimationError

TARGETS: dict[str, Target] = {"treated": "att", "all": "ate"}
CONSTANT = 1e-12  # spread of a column relative to its largest value


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What is adjusted for: covariates that vary, and the settings of the design."""

    y: FloatArray
    is_treated: BoolArray
    x: FloatArray
    names: tuple[str, ...]
    constant: tuple[str, ...]
    keys: tuple[str, ...]
    target: Target
    design: ObservationalDesign

    def doubly_robust(
        self, y: FloatArray, x: FloatArray, *, is_cross_fitted: bool = True
    ) -> DoublyRobustEffect:
        """The estimator that decides, on any outcome and covariates of these units."""
        return doubly_robust_effect(
            y,
            self.is_treated,
            x,
            target=self.target,
            unit_keys=self.keys if is_cross_fitted else None,
            folds=self.design.folds,
            seed=self.design.seed,
            alpha=self.design.alpha,
        )

    def without(self, covariate: str) -> FloatArray:
        """The matrix without one covariate, all levels of a category at once."""
        return self.x[:, [covariate_of(name) != covariate for name in self.names]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All estimates; `pairs` is None, with why, where too few pairs form."""

    propensity: Propensity
    robust: DoublyRobustEffect
    uncrossed: DoublyRobustEffect
    weighted: WeightedEffect
    unstable: WeightedEffect | None
    pairs: tuple[Matching, MatchedEffect] | None
    no_pairs: EstimationError | None
    balance: BalanceTable
    matched_balance: BalanceTable | None


def sample_of(units: Units, design: ObservationalDesign) -> Sample:
    """What is adjusted for, without covariates that never vary.

    Raises:
        ValueError: Nobody's treatment is recorded.
    """
    if units.treated is None:
        msg = "an observational study needs to know who was treated"
        raise ValueError(msg)
    x = units.covariates
    varies = x.std(axis=0) > CONSTANT * np.abs(x).max(axis=0, initial=0.0)
    pairs = list(zip(units.covariate_names, varies, strict=True))
    return Sample(
        y=units.outcome,
        is_treated=np.asarray(units.treated, dtype=np.bool_),
        x=np.asarray(x[:, varies], dtype=np.float64),
        names=tuple(name for name, is_kept in pairs if is_kept),
        constant=tuple(name for name, is_kept in pairs if not is_kept),
        keys=units.names,
        target=TARGETS[design.estimand],
        design=design,
    )


def estimate_all(sample: Sample, propensity: Propensity) -> Found:
    """Every estimator on the same units.

    Raises:
        EstimationError: NO_OVERLAP and the others of `doubly_robust_effect`.
    """
    require_overlap(propensity)
    alpha = sample.design.alpha
    weigh = partial(weighted_effect, sample.y, sample.is_treated, propensity, alpha=alpha)
    weighted = weigh(target=sample.target)
    pairs, no_pairs = None, None
    try:
        matching = match_nearest(
            propensity,
            sample.is_treated,
            caliper_sd=sample.design.caliper,
            unit_keys=sample.keys,
        )
        pairs = matching, matched_effect(sample.y, matching, covariates=sample.x, alpha=alpha)
    except EstimationError as error:
        no_pairs = error
    columns, names = all_levels(sample)
    balance = partial(balance_table, columns, sample.is_treated, names=names, target=sample.target)
    return Found(
        propensity=propensity,
        robust=sample.doubly_robust(sample.y, sample.x),
        uncrossed=sample.doubly_robust(sample.y, sample.x, is_cross_fitted=False),
        weighted=weighted,
        unstable=weigh(estimator="horvitz_thompson") if sample.target == "ate" else None,
        pairs=pairs,
        no_pairs=no_pairs,
        balance=balance(weighted.weights),
        matched_balance=None if pairs is None else balance(pairs[0].weights),
    )


def covariate_of(column: str) -> str:
    """The covariate behind a column: levels of a category are columns `name=level`."""
    return column.split("=", 1)[0]


def all_levels(sample: Sample) -> tuple[FloatArray, tuple[str, ...]]:
    """All columns, and of each category also the base level, which has no column."""
    columns, names = [sample.x], list(sample.names)
    for covariate in dict.fromkeys(covariate_of(name) for name in sample.names if "=" in name):
        levels = [name.startswith(f"{covariate}=") for name in sample.names]
        base = 1 - sample.x[:, levels].sum(axis=1)
        # Of two levels the second says nothing new; sums beyond 1 are no levels of one category.
        if sum(levels) > 1 and np.isin(base, (0.0, 1.0)).all() and base.any():
            columns.append(base[:, np.newaxis])
            names.append(f"{covariate}=(base)")
    return np.hstack(columns), tuple(names)

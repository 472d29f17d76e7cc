"""Tables and pictures of an observational study."""

from __future__ import annotations

from functools import partial

import numpy as np

from experiments_dagster.causal.series.series_sensitivity import SeriesSensitivity
from experiments_dagster.causal.units.balance import BalanceTable, balance_table
from experiments_dagster.causal.units.effects import UnitEffect
from experiments_dagster.causal.units.propensity import (
    BOUNDS,
    Propensity,
    inside_bounds,
    measure_overlap,
)
from experiments_dagster.causal.units.sensitivity import (
    EValue,
    RosenbaumBounds,
)
from experiments_dagster.causal.units.weighting import Target
from experiments_dagster.interventions.designs.observational_estimates import (
    Found,
    Sample,
    all_levels,
)
from experiments_dagster.interventions.study import (
    Picture,
    StudyTable,
    Value,
    table_of,
)
from experiments_dagster.reporting.balance_charts import (
    CovariateBalance,
    love_plot,
    overlap_bins,
    overlap_chart,
)
from experiments_dagster.reporting.numbers import number, plural
from experiments_dagster.stats.errors import EstimationError

SCALES: dict[Target, str] = {"att": "sd of the treated", "ate": "pooled sd"}
QUANTILES = {"lowest": 0.0, "quartile_1": 0.25, "median": 0.5, "quartile_3": 0.75, "highest": 1.0}


def numbers_of(found: UnitEffect) -> dict[str, float]:
    """Estimate, error, interval and p-value."""
    names = ("estimate", "std_error", "ci_low", "ci_high", "p_value")
    return {name: getattr(found, name) for name in names}


def balance_rows(sample: Sample, found: Found) -> StudyTable:
    """Covariates, and the propensity itself, which nothing is judged by."""
    rows = list(found.balance.rows)
    matched = [] if found.matched_balance is None else list(found.matched_balance.rows)
    score = partial(
        balance_table,
        found.propensity.values[:, np.newaxis],
        sample.is_treated,
        names=["propensity"],
        target=sample.target,
    )
    rows += score(found.weighted.weights).rows
    if found.pairs is not None:
        matched += score(found.pairs[0].weights).rows
    after = {row.name: row for row in matched}
    return table_of(
        "balance",
        "Standardised differences, treated less untreated, before and after adjustment",
        [
            {
                "covariate": row.name,
                "smd_before": row.smd_before,
                "smd_weighting": row.smd_after,
                "smd_matching": after[row.name].smd_after if after else None,
                "ratio_before": row.variance_ratio_before,
                "ratio_weighting": row.variance_ratio_after,
                "ratio_matching": (after[row.name].variance_ratio_after if after else None),
            }
            for row in rows
        ],
        note=f"smd in {SCALES[sample.target]}; ratio: variance of the treated over the others'",
    )


def propensity_rows(sample: Sample, propensity: Propensity) -> StudyTable:
    """Quantiles of the propensity in each group."""
    rows: list[dict[str, Value]] = []
    mask = sample.is_treated
    for name, arm in (("all", mask | ~mask), ("treated", mask), ("not treated", ~mask)):
        values = propensity.values[arm]
        quantiles = np.quantile(values, list(QUANTILES.values())).tolist()
        rows.append(
            {
                "units": name,
                "n": len(values),
                **dict(zip(QUANTILES, quantiles, strict=True)),
                "n_outside": int((~inside_bounds(propensity, BOUNDS))[arm].sum()),
            }
        )
    note = f"n_outside: propensity below {BOUNDS[0]:g} or above {BOUNDS[1]:g}"
    return table_of("propensity", "Estimated probability of treatment", rows, note=note)


def weight_rows(sample: Sample, found: Found) -> StudyTable:
    """How many units carry the estimates."""
    rows: list[dict[str, Value]] = []
    mask, weights = sample.is_treated, found.weighted.weights
    used = None if found.pairs is None else found.pairs[0].weights
    for name, arm, effective in (
        ("treated", mask, found.weighted.ess_treatment),
        ("not treated", ~mask, found.weighted.ess_control),
    ):
        n_matched = None if used is None else int((used[arm] > 0).sum())
        rows.append(
            {
                "units": name,
                "n": int(arm.sum()),
                "effective_n": effective,
                "largest_weight_share": float(weights[arm].max() / weights[arm].sum()),
                "n_matched": n_matched,
                "n_unmatched": None if n_matched is None else int(arm.sum()) - n_matched,
            }
        )
    return table_of("weights", "Units behind the weighted and the matched estimate", rows)


def left_out_rows(found: SeriesSensitivity) -> StudyTable:
    """The first estimate without each covariate."""
    rows: list[dict[str, Value]] = [
        {
            "left_out": refit.left_out,
            "estimate": refit.effect,
            "change": None if refit.effect is None else refit.effect - found.full_effect,
            "reason": refit.reason,
        }
        for refit in found.refits
    ]
    effects = [refit.effect for refit in found.refits if refit.effect is not None]
    note = f"range {number(min(effects))} to {number(max(effects))}" if effects else ""
    title = "The first estimate without each covariate"
    return table_of("leave_one_covariate_out", title, rows, note=note)


def sensitivity_rows(found: EValue, bounds: RosenbaumBounds | None) -> tuple[StudyTable, ...]:
    """E-value, and Rosenbaum bounds where there are pairs."""
    e_value = table_of(
        "e_value",
        "How strong unmeasured confounding would have to be",
        [
            {
                "risk_ratio": found.risk_ratio,
                "e_value": found.e_value,
                "e_value_interval": found.e_value_interval,
            }
        ],
        note="the first estimate in sd of the outcome, as risk ratio exp(0.91 d)",
    )
    if bounds is None:
        return (e_value,)
    rows: list[dict[str, Value]] = [
        {"gamma": row.gamma, "p_low": row.p_low, "p_high": row.p_high} for row in bounds.bounds
    ]
    gamma = bounds.largest_gamma
    note = (
        "p is not below alpha even without hidden bias"
        if gamma is None
        else f"p stays below {bounds.alpha:g} up to Γ = {gamma:.3g}"
    )
    title = f"Rosenbaum bounds on {plural(bounds.n_pairs, 'pair')} ({bounds.test})"
    return (e_value, table_of("rosenbaum_bounds", title, rows, note=note))


def pictures_of(sample: Sample, found: Found) -> tuple[Picture, ...]:
    """Love plots and overlap."""
    pictures = [
        _love("balance", "weighting", found.balance),
        overlap_picture(sample, found.propensity),
    ]
    if found.matched_balance is not None:
        pictures.insert(1, _love("balance_matching", "matching", found.matched_balance))
    return tuple(pictures)


def _love(name: str, adjustment: str, table: BalanceTable) -> Picture:
    caption = f"Balance before and after {adjustment}"
    rows = [
        CovariateBalance(name=row.name, before=row.smd_before, after=row.smd_after)
        for row in table.rows
    ]
    return Picture(
        name=name,
        caption=caption,
        draw=lambda width: love_plot(rows, title=caption, adjustment=adjustment, width=width),
    )


def overlap_picture(sample: Sample, propensity: Propensity) -> Picture:
    """Propensities of both groups."""
    caption = "Propensity of treated and untreated units"
    overlap, mask = measure_overlap(propensity), sample.is_treated
    bins = overlap_bins(propensity.values[mask].tolist(), propensity.values[~mask].tolist())
    return Picture(
        name="overlap",
        caption=caption,
        draw=lambda width: overlap_chart(
            bins,
            title=caption,
            control="not treated",
            bounds=overlap.bounds,
            extreme_share=overlap.extreme_share,
            width=width,
        ),
    )


def groups_before(sample: Sample) -> tuple[StudyTable, ...]:
    """How the groups differ, where they can be described at all."""
    try:
        columns, names = all_levels(sample)
        even = np.ones(len(sample.y))
        table = balance_table(columns, sample.is_treated, even, names=names, target=sample.target)
    except (EstimationError, ValueError):
        return ()
    rows: list[dict[str, Value]] = [
        {"covariate": row.name, "smd_before": row.smd_before} for row in table.rows
    ]
    title = "Standardised differences, treated less untreated, before adjustment"
    return (table_of("balance", title, rows),)

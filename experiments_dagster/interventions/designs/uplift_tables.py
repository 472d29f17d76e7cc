"""Tables of an uplift study.

What tells people apart by their effect (`targeting`, `segments`, `segment_profile`) exists only
where differences of the effect are shown; the others describe the evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments_dagster.causal.series.records import EffectInterval
from experiments_dagster.causal.units.balance import BalanceTable
from experiments_dagster.causal.units.heterogeneity_proof import (
    SEGMENTS,
    HeterogeneityProof,
    effect_segments,
)
from experiments_dagster.causal.units.learners import (
    FeatureImportance,
    UpliftFit,
    require_out_of_sample,
)
from experiments_dagster.causal.units.policy_value import PolicyValue, target_top_share
from experiments_dagster.interventions.designs.uplift_evidence import (
    Evidence,
    normal_interval,
    treatment_of,
)
from experiments_dagster.interventions.designs.uplift_findings import (
    GAIN_DEFINITION,
    REPLICATES,
    Benchmark,
    RankingCurve,
    UpliftFindings,
)
from experiments_dagster.interventions.study import StudyTable, Value, table_of
from experiments_dagster.interventions.study_data import Units
from experiments_dagster.reporting import numbers
from experiments_dagster.stats.intervals import two_sided_p_value

INTERVAL_COVERS = (
    "An interval is of the mean effect among units with the same covariates, if that effect is "
    "linear in them. It is no interval of one unit's effect, which no data can show."
)
ALL_FOLDS = (
    "Every fold is predicted by the others. Intervals hold for this ranking; where effects hardly "
    "differ they are too short, since the folds share their units"
)
_INNER_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

Row = dict[str, Value]


def average_table(units: Units, fit: UpliftFit, *, is_randomised: bool) -> StudyTable:
    """The average effect, and the plain difference of means beside it."""
    found = fit.average
    rows: list[Row] = [
        {
            "estimate_of": "average effect (AIPW, cross-fitted)",
            "estimate": found.estimate,
            "std_error": found.std_error,
            "ci_low": found.ci_low,
            "ci_high": found.ci_high,
            "p_value": found.p_value,
        }
    ]
    mask = treatment_of(units)
    arms = [units.outcome[arm] for arm in (mask, ~mask)]
    error = float(np.sqrt(sum(arm.var(ddof=1) / len(arm) for arm in arms)))
    difference = float(arms[0].mean() - arms[1].mean())
    plain = normal_interval(difference, error, 1 - fit.confidence_level)
    rows.append(
        {
            "estimate_of": "difference of means",
            "estimate": plain.estimate,
            "std_error": plain.std_error,
            **_limits(plain),
            "p_value": two_sided_p_value(plain.estimate / plain.std_error),
        }
    )
    note = "The plain difference is what the adjustment starts from."
    if not is_randomised:
        note = "The plain difference is confounded; it only shows what the adjustment changed."
    return table_of("average_effect", "Average effect", rows, note=note)


def arm_table(units: Units, fit: UpliftFit) -> StudyTable:
    """Units of each arm by fold."""
    fold_of, mask = require_out_of_sample(fit), treatment_of(units)
    treated, control = np.bincount(fold_of[mask]), np.bincount(fold_of[~mask])
    rows: list[Row] = [
        {"fold": fold, "n_control": int(n_control), "n_treatment": int(n_treated)}
        for fold, (n_control, n_treated) in enumerate(zip(control, treated, strict=True))
    ]
    return table_of("arm_sizes", "Units by fold", rows)


def proof_table(evidence: Evidence) -> StudyTable:
    """The test of heterogeneity and the calibration."""
    proof = evidence.proof
    rows: list[Row] = [
        {"quantity": "slope of observed on predicted effect (BLP)", **_plain(proof.blp_slope)},
        {"quantity": "calibration intercept", **_plain(proof.calibration_intercept)},
        {"quantity": "calibration slope", **_plain(proof.calibration_slope)},
        {"quantity": "highest fifth less lowest fifth", **_plain(proof.spread)},
        _bare("calibration error", proof.calibration_error),
        _bare("test statistic (sequential)", proof.statistic),
        _bare("p-value (one-sided)", proof.p_value),
    ]
    if len(evidence.p_values) > 1:
        n = len(evidence.p_values)
        rows.append(_bare(f"median p-value of {n} splits", evidence.median_p))
    return table_of(
        "heterogeneity",
        f"Do effects differ: {evidence.finding}",
        rows,
        note=(
            "The test predicts every fold by the folds before it; shown means p at most "
            f"{proof.max_p:g}, also in the median of splits. Slopes and spread describe: "
            f"{ALL_FOLDS[0].lower()}{ALL_FOLDS[1:]}."
        ),
    )


def benchmark_table(proof: HeterogeneityProof, benchmark: Benchmark) -> StudyTable:
    """The same test by linear T-learners, and what the trees predict better."""
    other = benchmark.proof
    rows = [
        _bare("test statistic, boosted trees", proof.statistic),
        _bare("p-value, boosted trees", proof.p_value),
        _bare("test statistic, linear T-learner", other.statistic),
        _bare("p-value, linear T-learner", other.p_value),
        {"quantity": "squared error saved", **_plain(benchmark.saved)},
    ]
    return table_of(
        "benchmark",
        "Boosted trees against a linear T-learner on the same folds",
        rows,
        note=(
            "The claim rests on the boosted trees, whichever model is better. Errors are against "
            f"the doubly robust scores; below 0 the linear model is closer. {ALL_FOLDS}."
        ),
    )


def group_table(proof: HeterogeneityProof) -> StudyTable:
    """GATES: predicted against observed effect by fifths of the prediction."""
    rows: list[Row] = [
        {
            "group": group.group + 1,
            "n": group.n,
            "predicted": group.predicted,
            "observed": group.observed.estimate,
            **_limits(group.observed),
        }
        for group in proof.groups
    ]
    return table_of(
        "group_effects",
        "Effect by fifths of the predicted effect, lowest first",
        rows,
        note=f"Observed: mean doubly robust score. {ALL_FOLDS}.",
    )


def curve_table(curves: Sequence[RankingCurve]) -> StudyTable:
    """End and areas of the curves, each with its definition."""
    return table_of(
        "curves",
        "Ranking against a random order",
        [row for item in curves for row in _curve_rows(item)],
        note=(
            "Areas are above the straight line of a random order. Limits are percentiles of "
            f"{REPLICATES} resamples of units, with the scores as they are. {ALL_FOLDS}."
        ),
    )


def gain_table(gains: Sequence[PolicyValue]) -> StudyTable:
    """Gains by share for a treatment that was not randomised."""
    rows: list[Row] = [
        {
            "share": item.share,
            "n_treated": item.n_targeted,
            "gain": item.total_gain.estimate,
            **_limits(item.total_gain),
        }
        for item in gains
    ]
    note = f"Definition: {GAIN_DEFINITION}. Intervals are pointwise. {ALL_FOLDS}."
    return table_of("gains", "Gain over treating nobody, by share treated", rows, note=note)


def importance_table(importance: Sequence[FeatureImportance]) -> StudyTable:
    """Permutation importance, largest first."""
    rows: list[Row] = [
        {
            "covariate": item.name,
            "loss_increase": item.loss_increase,
            "ci_low": item.ci_low,
            "ci_high": item.ci_high,
            "mean_change": item.mean_change,
        }
        for item in sorted(importance, key=lambda item: -item.loss_increase)
    ]
    return table_of(
        "importance",
        "Covariates permuted on unseen folds",
        rows,
        note=(
            "Descriptive: what the model uses, not what causes the effect to differ. "
            "loss_increase is the rise of the squared error against the doubly robust scores, "
            "mean_change the mean absolute change of the predicted effect."
        ),
    )


def individual_table(fit: UpliftFit) -> StudyTable:
    """How the predicted effects are spread, and how sure they are."""
    rows = [_pair("lowest", float(fit.effects.min()))]
    rows += [
        _pair(f"{numbers.share(q)} of units are below", float(np.quantile(fit.effects, q)))
        for q in _INNER_QUANTILES
    ]
    rows += [
        _pair("highest", float(fit.effects.max())),
        _pair("standard deviation", float(fit.effects.std())),
    ]
    if fit.ci_low is None or fit.ci_high is None:
        note = f"No interval of a predicted effect: {fit.no_interval}."
    else:
        note = INTERVAL_COVERS
        rows += [
            _pair("mean half-width of the interval", float((fit.ci_high - fit.ci_low).mean() / 2)),
            _pair("share of units with the interval above 0", float((fit.ci_low > 0).mean())),
            _pair("share of units with the interval below 0", float((fit.ci_high < 0).mean())),
        ]
    return table_of("individual_effects", "Predicted effects of the units", rows, note=note)


def balance_rows(table: BalanceTable) -> StudyTable:
    """Standardised differences before and after weighting."""
    rows: list[Row] = [
        {"covariate": row.name, "smd_before": row.smd_before, "smd_after": row.smd_after}
        for row in table.rows
    ]
    note = "Standardised mean differences; after: weighted by the inverse propensity."
    return table_of("balance", "Balance of the arms", rows, note=note)


def shown_tables(units: Units, found: UpliftFindings) -> tuple[StudyTable, ...]:
    """Segments, who is in them, and the value of treating a share."""
    groups = found.evidence.proof.groups
    segments: list[Row] = [
        {
            "segment": SEGMENTS[group.group],
            "n": group.n,
            "effect": group.observed.estimate,
            **_limits(group.observed),
        }
        for group in groups
    ]
    return (
        _targeting_table(found.policies),
        table_of(
            "segments",
            "Segments by predicted effect",
            segments,
            note=f"Effects on units that the models did not see. {ALL_FOLDS}.",
        ),
        _profile_table(units, found),
    )


def _targeting_table(policies: Sequence[PolicyValue]) -> StudyTable:
    rows: list[Row] = [
        {
            "share": item.share,
            "n_treated": round(item.n_targeted, 1),
            "quantity": quantity,
            **_plain(interval),
        }
        for item in policies
        for quantity, interval in (
            ("effect among the treated", item.effect_targeted),
            ("gain over treating nobody", item.gain),
            ("gain over the same share at random", item.gain_over_random),
            ("gain over treating everybody", item.gain_over_everybody),
        )
    ]
    return table_of(
        "targeting",
        "Treating the units with the highest predicted effect",
        rows,
        note=(
            "Gains are per unit of all units, without costs. Only the first share was chosen "
            f"beforehand. {ALL_FOLDS}."
        ),
    )


def _profile_table(units: Units, found: UpliftFindings) -> StudyTable:
    """Means of the covariates in the top share and in each segment, largest difference first."""
    policy, proof = found.policies[0], found.evidence.proof
    share, effect = numbers.share(policy.share), policy.effect_targeted
    is_top = target_top_share(found.fit, proof, share=policy.share)
    names = np.asarray(effect_segments(found.fit, proof))
    spread = units.covariates.std(axis=0)
    rows: list[Row] = []
    for column, covariate in enumerate(units.covariate_names):
        x = units.covariates[:, column]
        top, others = float(x[is_top].mean()), float(x[~is_top].mean())
        row: Row = {
            "covariate": covariate,
            "top_share": top,
            "others": others,
            "difference_in_sd": (top - others) / float(spread[column]),
            "top_share_sd": float(x[is_top].std()),
            "others_sd": float(x[~is_top].std()),
        }
        for segment in SEGMENTS:
            members = names == segment
            key = segment.lower().replace(" ", "_")
            row[key] = float(x[members].mean()) if members.any() else None
        rows.append(row)
    rows.sort(key=lambda row: -abs(float(row["difference_in_sd"] or 0)))
    return table_of(
        "segment_profile",
        f"Who is predicted to respond most: means of the covariates in the top {share}",
        rows,
        note=(
            f"Effect among the top {share}, on units the models did not see: "
            f"{effect.estimate:.4g} [{effect.ci_low:.4g}, {effect.ci_high:.4g}]. Means and "
            "standard deviations (_sd, wide where both ends respond) describe who is there; no "
            "covariate is shown to be the reason."
        ),
    )


def _curve_rows(item: RankingCurve) -> list[Row]:
    curve, limits = item.curve, item.interval
    definition = curve.definition
    rows: list[tuple[str, float | None, float | None, float | None, str]] = [
        ("end", curve.end, None, None, definition),
        (
            "area_minus_random_per_n2",
            curve.area_minus_random_per_n2,
            None if limits is None else limits.area_low,
            None if limits is None else limits.area_high,
            f"{definition}, area over the squared number of units",
        ),
        (
            "normalised_area",
            curve.normalised_area,
            None if limits is None else limits.normalised_low,
            None if limits is None else limits.normalised_high,
            f"{definition}, {curve.normalised_reason or curve.normalisation}",
        ),
    ]
    names = ("quantity", "value", "ci_low", "ci_high", "definition")
    return [{"curve": curve.kind, **dict(zip(names, row, strict=True))} for row in rows]


def _plain(interval: EffectInterval) -> Row:
    return {
        "value": interval.estimate,
        "std_error": interval.std_error,
        **_limits(interval),
    }


def _limits(interval: EffectInterval) -> Row:
    return {"ci_low": interval.ci_low, "ci_high": interval.ci_high}


def _bare(quantity: str, value: float) -> Row:
    return {
        "quantity": quantity,
        "value": value,
        "std_error": None,
        "ci_low": None,
        "ci_high": None,
    }


def _pair(quantity: str, value: float) -> Row:
    return {"quantity": quantity, "value": value}

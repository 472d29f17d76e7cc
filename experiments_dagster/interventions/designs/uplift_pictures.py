"""Pictures of an uplift study: curves, predicted against observed, importance, comparability."""

from __future__ import annotations

import numpy as np

from experiments_dagster.causal.units.propensity import measure_overlap
from experiments_dagster.interventions.designs.uplift_evidence import evidence_words, treatment_of
from experiments_dagster.interventions.designs.uplift_findings import (
    GAIN_DEFINITION,
    RankingCurve,
    UpliftFindings,
)
from experiments_dagster.interventions.study import Picture
from experiments_dagster.interventions.study_data import Units
from experiments_dagster.reporting.balance_charts import (
    CovariateBalance,
    love_plot,
    overlap_bins,
    overlap_chart,
)
from experiments_dagster.reporting.uplift_charts import (
    CurvePoint,
    EffectBin,
    Importance,
    effect_bin_chart,
    importance_chart,
    qini_chart,
)

_POINTS = 1000
_CURVE_NAMES = {"qini": "Qini curve", "uplift": "Uplift curve"}


def pictures_of(units: Units, found: UpliftFindings) -> tuple[Picture, ...]:
    """Curves, predicted against observed, importance; overlap and balance without randomisation."""
    outcome, level = units.outcome_name, found.fit.confidence_level
    finding = found.evidence.finding
    drawn = [_curve_picture(item, outcome) for item in found.curves]
    if found.gains:
        drawn.append(_gain_picture(found, outcome))
    bins = tuple(
        EffectBin(
            name=str(group.group + 1),
            n=group.n,
            predicted=group.predicted,
            estimate=group.observed.estimate,
            low=group.observed.ci_low,
            high=group.observed.ci_high,
        )
        for group in found.evidence.proof.groups
    )
    drawn.append(
        Picture(
            name="group_effects",
            caption="Effect by fifths of the predicted effect, on units the models did not see",
            draw=lambda width: effect_bin_chart(
                bins,
                title="Predicted and observed effect",
                average=found.fit.average.estimate,
                unit=outcome,
                confidence_level=level,
                note=f"{finding[0].upper()}{finding[1:]}: {evidence_words(found.evidence)}.",
                width=width,
            ),
        )
    )
    bars = tuple(
        Importance(name=item.name, value=item.loss_increase, low=item.ci_low, high=item.ci_high)
        for item in found.importance
    )
    drawn.append(
        Picture(
            name="importance",
            caption="What permuting a covariate on unseen folds costs",
            draw=lambda width: importance_chart(
                bars,
                title="Importance of covariates for the predicted effect",
                quantity="rise of the squared error",
                confidence_level=level,
                note="Descriptive: what the model uses, not what causes effects to differ.",
                width=width,
            ),
        )
    )
    if found.gains:
        drawn += _comparability(units, found)
    return tuple(drawn)


def _curve_picture(item: RankingCurve, outcome: str) -> Picture:
    curve = item.curve
    last = len(curve.values) - 1
    kept = np.unique(np.linspace(0, last, min(last + 1, _POINTS)).astype(np.int64))
    points = tuple(
        CurvePoint(n_targeted=n, value=value)
        for n, value in zip(
            curve.n_targeted[kept].tolist(), curve.values[kept].tolist(), strict=True
        )
    )
    area = f"Area above random, over n²: {curve.area_minus_random_per_n2:.3g}"
    if item.interval is not None:
        area += f" [{item.interval.area_low:.3g}, {item.interval.area_high:.3g}]"
    name = _CURVE_NAMES[curve.kind]
    return Picture(
        name=f"{curve.kind}_curve",
        caption=f"{name}: units ranked by predicted effect against a random order",
        draw=lambda width: qini_chart(
            points,
            title=name,
            definition=curve.definition,
            quantity=f"additional {outcome}",
            note=f"{area}.",
            width=width,
        ),
    )


def _gain_picture(found: UpliftFindings, outcome: str) -> Picture:
    points = (
        CurvePoint(n_targeted=0.0, value=0.0, low=0.0, high=0.0),
        *(
            CurvePoint(
                n_targeted=item.n_targeted,
                value=item.total_gain.estimate,
                low=item.total_gain.ci_low,
                high=item.total_gain.ci_high,
            )
            for item in found.gains
        ),
    )
    level = found.fit.confidence_level
    return Picture(
        name="gain_curve",
        caption="Gain by share treated: highest predicted effect first, against a random order",
        draw=lambda width: qini_chart(
            points,
            title="Gain by share treated",
            definition=GAIN_DEFINITION,
            quantity=f"additional {outcome}",
            confidence_level=level,
            width=width,
        ),
    )


def _comparability(units: Units, found: UpliftFindings) -> list[Picture]:
    mask, propensity = treatment_of(units), found.fit.propensity
    bins = overlap_bins(propensity.values[mask].tolist(), propensity.values[~mask].tolist())
    extreme = measure_overlap(propensity).extreme_share
    pictures = [
        Picture(
            name="overlap",
            caption="Estimated probability of treatment in both groups",
            draw=lambda width: overlap_chart(
                bins, title="Overlap of the groups", extreme_share=extreme, width=width
            ),
        )
    ]
    if found.balance is not None:
        rows = tuple(
            CovariateBalance(name=row.name, before=row.smd_before, after=row.smd_after)
            for row in found.balance.rows
        )
        pictures.append(
            Picture(
                name="balance",
                caption="Standardised differences of the covariates before and after weighting",
                draw=lambda width: love_plot(rows, title="Balance of the groups", width=width),
            )
        )
    return pictures

"""Tables and pictures of a donor design."""

from __future__ import annotations

import numpy as np

from experiments_dagster.causal.series.donor_panel import DonorPanel
from experiments_dagster.causal.series.donor_placebo import SpacePlacebo
from experiments_dagster.causal.series.donor_sensitivity import (
    Sensitivity,
)
from experiments_dagster.causal.series.synthetic_control import (
    SyntheticControlResult,
)
from experiments_dagster.causal.series.synthetic_did import (
    SyntheticDidResult,
)
from experiments_dagster.interventions.designs.donor_task import (
    DonorFindings,
    DonorTask,
    Result,
    predictor_name,
    weights_of,
)
from experiments_dagster.interventions.study import (
    Picture,
    StudyTable,
    Value,
    table_of,
)
from experiments_dagster.interventions.study_data import FloatArray
from experiments_dagster.reporting.donor_charts import (
    DonorWeight,
    PathPoint,
    PlaceboGap,
    PlaceboRatio,
    donor_weight_chart,
    placebo_fan_chart,
    placebo_ratio_chart,
    synthetic_path_chart,
)

SHOWN_WEIGHT = 1e-3


def donor_tables(
    task: DonorTask, panel: DonorPanel, result: Result, found: DonorFindings
) -> tuple[StudyTable, ...]:
    """Weights, series, fit, placebos and what parts of the data change."""
    units, labels = task.panel.units, task.panel.labels
    weights = weights_of(result)
    order = np.argsort(-np.abs(weights), kind="stable")
    tables = [
        table_of(
            "donor_weights",
            "Donor weights",
            [
                {"donor": units[panel.donors[k]], "weight": float(weights[k])}
                for k in order
                if abs(weights[k]) > SHOWN_WEIGHT
            ],
            columns=("donor", "weight"),
            note=f"donors with less than {SHOWN_WEIGHT:g} are not listed",
        ),
        table_of(
            "series",
            "Treated unit and its counterfactual",
            [
                {
                    "period": label,
                    "observed": float(seen),
                    "counterfactual": float(seen - gap),
                    "difference": float(gap),
                }
                for label, seen, gap in zip(
                    labels, _treated_mean(panel), result.effect, strict=True
                )
            ],
        ),
    ]
    if isinstance(result, SyntheticControlResult):
        tables += _fit_tables(task, result)
    if isinstance(result, SyntheticDidResult):
        used: list[dict[str, Value]] = [
            {"period": labels[step], "weight": float(weight)}
            for step, weight in enumerate(result.time_weights)
            if weight > SHOWN_WEIGHT
        ]
        tables.append(
            table_of("time_weights", "Period weights", used, columns=("period", "weight"))
        )
    return (*tables, *_refutation_tables(task, found))


def _fit_tables(task: DonorTask, result: SyntheticControlResult) -> list[StudyTable]:
    starts: list[dict[str, Value]] = [
        {"start": name, "pre_rmspe": value} for name, value in result.start_rmspe
    ]
    tables = [
        table_of(
            "starts",
            "Pre-period error by start of the search",
            starts,
            columns=("start", "pre_rmspe"),
            note=f"kept: {result.best_start}",
        )
    ]
    balance = result.balance
    if balance is None:
        return tables
    rows: list[dict[str, Value]] = [
        {
            "predictor": predictor_name(spec),
            "treated": float(balance.treated[k]),
            "counterfactual": float(balance.synthetic[k]),
            "donor_mean": float(balance.donor_mean[k]),
            "importance": float(balance.weights[k]),
        }
        for k, spec in enumerate(task.design.predictors)
    ]
    return [table_of("predictors", "Predictors before the intervention", rows), *tables]


def _refutation_tables(task: DonorTask, found: DonorFindings) -> list[StudyTable]:
    units, labels = task.panel.units, task.panel.labels
    tables = []
    if found.space is not None:
        space = found.space
        rows: list[dict[str, Value]] = [
            {
                "unit": units[donor],
                "pre_rmspe": float(space.pre_rmspes[k]),
                "post_pre_ratio": float(space.ratios[k]),
                "average": float(space.average_effects[k]),
            }
            for k, donor in _by_ratio(space)
        ]
        note = f"{task.names}: ratio {space.ratio:.4g}, p = {space.p_value:.4g}"
        tables.append(
            table_of("placebos_in_space", "Donors in place of the treated", rows, note=note)
        )
    if found.time is not None:
        starts: list[dict[str, Value]] = [
            {"start": labels[int(step)], "average": float(effect)}
            for step, effect in zip(found.time.positions, found.time.effects, strict=True)
        ]
        note = f"p = {found.time.p_value:.4g} of {len(starts)}"
        tables.append(table_of("placebos_in_time", "Starts that never were", starts, note=note))
    left_out: list[dict[str, Value]] = [
        {"left_out": _left_out(task, item, int(what)), "average": float(effect)}
        for item in found.sensitivities
        for what, effect in zip(item.left_out, item.effects, strict=True)
    ]
    if left_out:
        title = "Average difference without parts of the data"
        tables.append(table_of("left_out", title, left_out))
    return tables


def _by_ratio(space: SpacePlacebo) -> list[tuple[int, int]]:
    """Position and column of the placebos, the largest ratio first."""
    order = np.argsort(-space.ratios, kind="stable").tolist()
    return [(k, int(space.donors[k])) for k in order]


def _left_out(task: DonorTask, item: Sensitivity, what: int) -> str:
    if item.kind == "donor":
        return f"donor {task.panel.units[what]}"
    if item.kind == "predictor":
        return f"predictor {predictor_name(task.design.predictors[what])}"
    return f"last {what} periods before"


def donor_pictures(
    task: DonorTask, panel: DonorPanel, result: Result, space: SpacePlacebo | None
) -> tuple[Picture, ...]:
    """Paths, weights, the fan of placebos and their ratios."""
    units, labels, n_pre = task.panel.units, task.panel.labels, panel.n_pre
    outcome = task.panel.outcome_name
    seen = _treated_mean(panel)
    path = [
        PathPoint(label=label, observed=float(value), synthetic=float(value - gap))
        for label, value, gap in zip(labels, seen, result.effect, strict=True)
    ]
    weights = weights_of(result)
    bars = [
        DonorWeight(name=units[donor], weight=float(weights[k]))
        for k, donor in enumerate(panel.donors.tolist())
    ]
    title = f"{outcome}: {task.names} and its counterfactual"
    pictures = [
        Picture(
            name="observed_vs_counterfactual",
            caption=f"{outcome}, observed and as the donors' mix has it.",
            draw=lambda width: synthetic_path_chart(
                path, n_pre, title=title, treated=task.names, width=width
            ),
        ),
        Picture(
            name="donor_weights",
            caption="Donors by weight.",
            draw=lambda width: donor_weight_chart(bars, title="Donor weights", width=width),
        ),
    ]
    if space is None:
        return tuple(pictures)
    gaps = [
        PlaceboGap(name=units[donor], gaps=tuple(space.effects[k].tolist()))
        for k, donor in enumerate(space.donors.tolist())
    ]
    own = PlaceboGap(name=task.names, gaps=tuple(space.effect.tolist()))
    ratios = [
        PlaceboRatio(name=units[donor], ratio=float(space.ratios[k]))
        for k, donor in enumerate(space.donors.tolist())
    ]
    ratio = PlaceboRatio(name=task.names, ratio=space.ratio)
    pictures += [
        Picture(
            name="placebo_fan",
            caption="Differences of the treated unit and of donors in its place.",
            draw=lambda width: placebo_fan_chart(
                own,
                gaps,
                labels,
                n_pre,
                title=f"{outcome}: difference from the counterfactual",
                n_left_out=space.n_excluded,
                max_fit_ratio=task.design.max_fit_ratio,
                width=width,
            ),
        ),
        Picture(
            name="placebo_ratios",
            caption="Error after over error before, for every unit.",
            draw=lambda width: placebo_ratio_chart(
                ratio, ratios, title="Error after over before", p_value=space.p_value, width=width
            ),
        ),
    ]
    return tuple(pictures)


def _treated_mean(panel: DonorPanel) -> FloatArray:
    mean: FloatArray = panel.outcomes[:, list(panel.treated)].mean(axis=1)
    return mean

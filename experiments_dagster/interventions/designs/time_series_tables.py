"""What a reviewer of a time-series study asks for, as tables; and the points of its picture."""

from __future__ import annotations

import math

from experiments_dagster.causal.series.records import ImpactResult, PlaceboResult
from experiments_dagster.causal.series.series_sensitivity import CovariateBreak, SeriesSensitivity
from experiments_dagster.interventions.series_data import SeriesData
from experiments_dagster.interventions.study import StudyTable, Value, table_of
from experiments_dagster.reporting.impact_charts import ImpactPoint

SERIES_COLUMNS = (
    *("date", "y", "y_hat", "y_hat_lower", "y_hat_upper"),
    *("effect", "effect_lower", "effect_upper", "cum_effect", "cum_lower", "cum_upper"),
)


def series_table(series: SeriesData, impact: ImpactResult) -> StudyTable:
    """One row per period, the newest first: what happened after is what readers look for."""
    place = {int(step): k for k, step in enumerate(impact.effect_steps)}
    rows: list[dict[str, Value]] = []
    for step, date in enumerate(series.dates):
        k = place.get(step)
        after = {
            "effect": impact.effect,
            "effect_lower": impact.effect_low,
            "effect_upper": impact.effect_high,
            "cum_effect": impact.cumulative,
            "cum_lower": impact.cumulative_low,
            "cum_upper": impact.cumulative_high,
        }
        rows.append(
            {
                "date": date.isoformat(),
                "y": _known(series.observed[step]),
                "y_hat": float(impact.counterfactual[step]),
                "y_hat_lower": float(impact.counterfactual_low[step]),
                "y_hat_upper": float(impact.counterfactual_high[step]),
                **{name: None if k is None else float(v[k]) for name, v in after.items()},
            }
        )
    return table_of(
        "series",
        "The series and its counterfactual",
        rows[::-1],
        columns=SERIES_COLUMNS,
        note=(
            "Newest first. Cumulative limits are quantiles of summed paths, not sums of the "
            "limits of single periods"
        ),
    )


def fit_table(impact: ImpactResult) -> StudyTable:
    """How the model predicts the pre period, and what it found the noise to be."""
    found, backtest = impact.diagnostics, impact.diagnostics.backtest
    rows: list[tuple[str, Value]] = [
        ("R² one step ahead", found.r2_pre),
        ("RMSE one step ahead", found.rmse_pre),
        ("mean absolute percentage error (share)", found.mape_pre),
        ("largest |autocorrelation|, lags 1 to 7", found.max_abs_acf),
        ("Ljung-Box p", found.ljung_box_p),
        ("normality p", found.normality_p),
        ("weight of the local level against AR(1)", impact.local_level_weight),
    ]
    if backtest is not None:
        rows += [
            ("back-test: points held out", backtest.n_points),
            ("back-test: share inside their intervals", backtest.coverage),
            ("back-test: total inside its interval", backtest.covers_total),
        ]
    else:
        rows.append(("back-test: points held out", 0))
    return StudyTable(
        name="pre_fit", title="Fit before", columns=("measure", "value"), rows=tuple(rows)
    )


def placebo_table(series: SeriesData, placebo: PlaceboResult | None) -> StudyTable:
    """The average effect at the real date, then at each date where nothing happened."""
    rows: list[dict[str, Value]] = []
    if placebo is not None:
        real = series.dates[series.n_pre].isoformat()
        rows.append({"start": real, "is_real": True, "average_effect": placebo.effect})
        rows += [
            {
                "start": series.dates[int(step)].isoformat(),
                "is_real": False,
                "average_effect": float(effect),
            }
            for step, effect in zip(placebo.positions, placebo.effects, strict=True)
        ]
    note = "" if placebo is None else f"{placebo.n_disjoint} of the placebo windows share no step"
    columns = ("start", "is_real", "average_effect")
    return table_of("placebos", "Placebos in time", rows, columns=columns, note=note)


def sensitivity_table(*found: SeriesSensitivity | None) -> StudyTable:
    """The total effect without each covariate, and without the last steps before."""
    rows: list[dict[str, Value]] = [
        {
            "left_out": refit.left_out,
            "kind": item.kind.replace("_", " "),
            "total_effect": refit.effect,
            "change": (
                refit.effect / item.full_effect - 1
                if refit.effect is not None and item.full_effect
                else None
            ),
            "reason": refit.reason,
        }
        for item in found
        if item is not None
        for refit in item.refits
    ]
    columns = ("left_out", "kind", "total_effect", "change", "reason")
    note = "Change is relative to the effect on all data; below -1 the sign is another"
    return table_of("sensitivity", "Refits on less", rows, columns=columns, note=note)


def break_table(breaks: tuple[CovariateBreak, ...]) -> StudyTable:
    """The change of each covariate at the intervention, against its own forecast."""
    rows: list[dict[str, Value]] = [
        {
            "covariate": row.name,
            "change": row.change.estimate if row.change else None,
            "ci_low": row.change.ci_low if row.change else None,
            "ci_high": row.change.ci_high if row.change else None,
            "p_value": row.p_value,
            "p_adjusted": row.p_adjusted,
            "reason": row.reason,
        }
        for row in breaks
    ]
    columns = ("covariate", "change", "ci_low", "ci_high", "p_value", "p_adjusted", "reason")
    note = "Average change per period, each covariate by its own history; p adjusted by Holm"
    return table_of("covariate_breaks", "Breaks of covariates", rows, columns=columns, note=note)


def impact_points(series: SeriesData, impact: ImpactResult) -> list[ImpactPoint]:
    """The rows of the chart: level, difference per step, cumulative difference after."""
    place = {int(step): k for k, step in enumerate(impact.effect_steps)}
    points = []
    for step, date in enumerate(series.dates):
        value, k = _known(series.observed[step]), place.get(step)
        expected = float(impact.counterfactual[step])
        low = float(impact.counterfactual_low[step])
        high = float(impact.counterfactual_high[step])
        effects: tuple[float | None, float | None, float | None] = (None, None, None)
        if k is not None:
            found = (impact.effect[k], impact.effect_low[k], impact.effect_high[k])
            effects = (float(found[0]), float(found[1]), float(found[2]))
        elif value is not None and step < impact.n_pre:
            effects = (value - expected, value - high, value - low)
        points.append(
            ImpactPoint(
                date=date,
                observed=value,
                counterfactual=expected,
                ci_low=low,
                ci_high=high,
                effect=effects[0],
                effect_low=effects[1],
                effect_high=effects[2],
                cumulative=None if k is None else float(impact.cumulative[k]),
                cumulative_low=None if k is None else float(impact.cumulative_low[k]),
                cumulative_high=None if k is None else float(impact.cumulative_high[k]),
            )
        )
    return points


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

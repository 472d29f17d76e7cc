"""The report of an intervention without randomisation: what happened against what was expected.

A difference from a counterfactual is called an effect only after a placebo in time could have
refuted it and did not (`is_supported`). Until then the page says association.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, field

from experiments_dagster.causal.series.records import ImpactResult, PlaceboResult
from experiments_dagster.config.intervention import InterventionSpec
from experiments_dagster.reporting.blocks import (
    Badge,
    Report,
    Section,
    Tile,
    exact,
    exact_interval,
    phrase,
    render,
)
from experiments_dagster.reporting.charts import ImpactPoint
from experiments_dagster.reporting.impact_sections import (
    chart_blocks,
    design_blocks,
    fit_blocks,
    lineage_blocks,
    placebo_blocks,
    result_blocks,
    step_blocks,
)
from experiments_dagster.reporting.numbers import (
    count,
    day,
    level,
    lift,
    p_value,
    reason_words,
    sentence,
    signed,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionRecord:
    """Everything that the report of one intervention reads.

    Args:
        slug: Name of the intervention.
        spec: What its file says.
        dates: First day of each step, pre and post.
        observed: The series at each step; None where a value is missing.
        result: The estimate; None with `reason` where it is not estimable.
        reason: Code of `stats.errors.REASONS`.
        placebo: The placebo in time; None with `placebo_reason` where there is none.
        placebo_reason: Why there is no placebo.
        treated: Who was treated, in words.
        controls: What the counterfactual is built from, in words.
        display_unit: Unit of the series.
        as_of: ISO instant of the cut-off, if known.
        cutoff: Number of the last batch read.
        config_hash: Hash of the intervention's configuration, if it has one.
        code_version: Version of the program.
        inputs: SHA-256 by input file.
    """

    slug: str
    spec: InterventionSpec
    dates: tuple[dt.date, ...]
    observed: tuple[float | None, ...]
    result: ImpactResult | None
    reason: str | None = None
    placebo: PlaceboResult | None = None
    placebo_reason: str | None = None
    treated: str
    controls: str
    display_unit: str | None = None
    as_of: str | None = None
    cutoff: int
    config_hash: str | None = None
    code_version: str
    inputs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.dates) != len(self.observed):
            msg = f"{self.slug}: {len(self.dates)} dates and {len(self.observed)} values"
            raise ValueError(msg)
        if self.result is not None and len(self.dates) != len(self.result.counterfactual):
            steps = len(self.result.counterfactual)
            msg = f"{self.slug}: {len(self.dates)} dates and a counterfactual of {steps} steps"
            raise ValueError(msg)


def is_significant(record: InterventionRecord) -> bool:
    """Whether the interval of the total excludes 0."""
    return record.result is not None and record.result.p_value < record.spec.design.alpha


def is_supported(record: InterventionRecord) -> bool:
    """Whether a placebo in time could have refuted the difference and did not.

    It needs a significant difference, a placebo p at most alpha with enough disjoint windows to
    reach alpha at all, placebos that do not all lean to one side, and a back-test whose total is
    covered.
    """
    placebo, alpha = record.placebo, record.spec.design.alpha
    if placebo is None or record.result is None or not is_significant(record):
        return False
    reachable = 1 / (1 + placebo.n_disjoint) <= alpha
    is_biased = placebo.is_one_sided or placebo.sign_p_value < alpha
    backtest = record.result.diagnostics.backtest
    is_covered = backtest is not None and backtest.covers_total
    return reachable and placebo.p_value <= alpha and not is_biased and is_covered


def impact_points(record: InterventionRecord) -> list[ImpactPoint]:
    """The rows of the chart: level, difference per step, cumulative difference after."""
    result = record.result
    if result is None:
        return []
    place = {int(step): k for k, step in enumerate(result.effect_steps)}
    points = []
    for step, (date, observed) in enumerate(zip(record.dates, record.observed, strict=True)):
        expected = float(result.counterfactual[step])
        low, high = float(result.counterfactual_low[step]), float(result.counterfactual_high[step])
        k = place.get(step)
        is_seen = observed is not None and math.isfinite(observed)
        value = observed if is_seen else None
        effects: tuple[float | None, float | None, float | None] = (None, None, None)
        if k is not None:
            effects = (
                float(result.effect[k]),
                float(result.effect_low[k]),
                float(result.effect_high[k]),
            )
        elif value is not None and step < result.n_pre:
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
                cumulative=None if k is None else float(result.cumulative[k]),
                cumulative_low=None if k is None else float(result.cumulative_low[k]),
                cumulative_high=None if k is None else float(result.cumulative_high[k]),
            )
        )
    return points


def render_intervention_report(record: InterventionRecord) -> str:
    """One self-contained HTML page about one intervention."""
    term = "effect" if is_supported(record) else "association"
    parts = [
        ("design", "What happened, and the design", design_blocks(record.spec, record)),
        ("fit", "Fit before the intervention", fit_blocks(record.result, record.reason)),
        ("placebo", "Placebo in time", placebo_blocks(record.placebo, record.placebo_reason)),
        (
            "chart",
            "Observed and counterfactual",
            chart_blocks(record.spec, impact_points(record), unit=record.display_unit),
        ),
        ("result", f"Estimated {term}", result_blocks(record.result, record.reason, term)),
        ("lineage", "Lineage", lineage_blocks(record)),
        (
            "next",
            "Next steps",
            step_blocks(
                is_estimable=record.result is not None,
                is_significant=is_significant(record),
                is_supported=is_supported(record),
                has_placebo=record.placebo is not None,
            ),
        ),
    ]
    sections = tuple(
        Section(name=name, title=title, blocks=tuple(blocks)) for name, title, blocks in parts
    )
    return render(
        Report(
            kind=f"Intervention report: estimated {term}",
            title=record.slug,
            lead=record.spec.description,
            meta=(
                f"before {day(record.spec.pre.start)} to {day(record.spec.pre.end)}",
                f"after {day(record.spec.post.start)} to {day(record.spec.post.end)}",
                f"owner {record.spec.owner}",
            ),
            badge=_badge(record),
            headline=_headline(record),
            reasons=_reasons(record),
            tiles=_tiles(record),
            notes=(),
            sections=sections,
            footer=f"Generated by experiments_dagster {record.code_version} from batches up to "
            f"{record.cutoff}.",
        )
    )


def _badge(record: InterventionRecord) -> Badge:
    if record.result is None:
        return Badge(words="NOT ESTIMABLE", tone="broken")
    if not is_significant(record):
        return Badge(words="NO DIFFERENCE SHOWN", tone="open")
    if is_supported(record):
        return Badge(words="SUPPORTED BY PLACEBO", tone="good")
    return Badge(words="ASSOCIATION", tone="explore")


def _headline(record: InterventionRecord) -> str:
    if record.result is None:
        return "The counterfactual could not be estimated."
    if not is_significant(record):
        return "No difference from the counterfactual is shown."
    way = "above" if record.result.total.estimate > 0 else "below"
    name = "Estimated effect" if is_supported(record) else "Estimated association"
    return f"{name}: {record.spec.series.metric} was {way} its counterfactual."


def _reasons(record: InterventionRecord) -> tuple[str, ...]:
    if record.result is None:
        return (sentence(reason_words(record.reason) or "no estimate was recorded"),)
    if is_supported(record):
        words = (
            "The same model at dates where nothing happened gave no difference of this size, so "
            "the difference is called an effect. It is still not randomised."
        )
    elif record.placebo is None:
        words = "Nothing has tried to refute this difference; it is an association, no effect."
    else:
        words = (
            "The placebo in time does not support calling this an effect; it is an association "
            "between the period and the series."
        )
    return (words,)


def _tiles(record: InterventionRecord) -> tuple[Tile, ...]:
    result = record.result
    if result is None:
        return ()
    confidence = level(result.confidence_level)
    tiles = [
        Tile(
            label="Total difference",
            value=exact(result.total.estimate, signed),
            detail=phrase(
                "{}, {} interval",
                exact_interval(result.total.ci_low, result.total.ci_high, signed),
                confidence,
            ),
        )
    ]
    if result.relative is not None:
        limits = exact_interval(result.relative.ci_low, result.relative.ci_high, lift)
        tiles.append(
            Tile(
                label="Relative to the counterfactual",
                value=exact(result.relative.estimate, lift),
                detail=limits,
            )
        )
    shown = record.placebo.p_value if record.placebo else None
    detail = f"{count(len(record.placebo.effects))} placebos" if record.placebo else ""
    tiles.append(
        Tile(
            label="Placebo p",
            value=exact(shown, p_value),
            detail=detail or reason_words(record.placebo_reason) or "no placebo was run",
        )
    )
    return tuple(tiles)

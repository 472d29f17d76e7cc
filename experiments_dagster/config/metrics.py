"""configs/metrics.yaml: every metric once.

A *measure* is what the pass over raw events adds up per unit and day; a metric turns one or two
measures over a window into one number per unit. Windows are whole days after the unit's own
first exposure and count only units whose whole window is observed (complete cohorts), unless the
metric is open-ended: then every unit counts with what has been seen of its window so far.

A metric of kind `summary` reads no events: its moments per arm arrive aggregated.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field, field_validator

from experiments_dagster.config.base import Days, Flag, Fraction, Name, Slug, Spec, Text

Direction = Literal["increase", "decrease"]


class Measure(Spec):
    """Something additive per unit and day: a sum of values or a count of events.

    `where` keeps events whose property equals one of the listed values.
    """

    source: Slug
    events: tuple[Text, ...] = Field(min_length=1)
    aggregate: Literal["sum", "count"]
    where: dict[Name, tuple[str, ...]] = Field(default_factory=dict)

    @property
    def key(self) -> str:
        """A column name that is the same for the same definition, in any file."""
        canonical = self.model_dump_json()
        return "m_" + hashlib.sha256(canonical.encode()).hexdigest()[:10]


class _Part(Spec):
    """Which events a metric reads, as written in the file."""

    event: Text | tuple[Text, ...]
    source: Slug | None = None
    where: dict[Name, str | tuple[str, ...]] = Field(default_factory=dict)

    def measure(self, aggregate: Literal["sum", "count"], default_source: str) -> Measure:
        """The measure this part adds up."""
        events = (self.event,) if isinstance(self.event, str) else tuple(sorted(set(self.event)))
        where = {k: (v,) if isinstance(v, str) else tuple(v) for k, v in sorted(self.where.items())}
        source = self.source or default_source
        return Measure(source=source, events=events, aggregate=aggregate, where=where)


class RatioPart(_Part):
    """Numerator or denominator of a ratio metric."""

    aggregate: Literal["sum", "count"] = "sum"


class _MetricBase(Spec):
    direction: Direction = "increase"
    description: Text | None = None
    display_unit: Text | None = None
    owner: Text | None = None
    heartbeat: Flag = False


class _MetricSpec(_MetricBase):
    window_days: Days


class _WindowSpec(_MetricSpec):
    cohorts: Literal["complete", "open_ended"] = "complete"


class MeanMetric(_WindowSpec, _Part):
    """Sum of event values per unit over the window; 0 for a unit without events."""

    kind: Literal["mean"]


class CountMetric(_WindowSpec, _Part):
    """Number of events per unit over the window."""

    kind: Literal["count"]


class ProportionMetric(_WindowSpec, _Part):
    """1 for a unit with at least one event in the window, else 0."""

    kind: Literal["proportion"]


class RetentionMetric(_MetricSpec, _Part):
    """1 for a unit active in [start_day, start_day + window_days) after exposure, else 0."""

    kind: Literal["retention"]
    start_day: Days


class RatioMetric(_WindowSpec):
    """Sum of numerators over sum of denominators, both per unit over the same window."""

    kind: Literal["ratio"]
    numerator: RatioPart
    denominator: RatioPart


class QuantileMetric(_MetricSpec, _Part):
    """A quantile of the values of all events in the window, or of the units' totals.

    Events of one unit belong together: the standard error clusters them.
    """

    kind: Literal["quantile"]
    quantile: Fraction
    of: Literal["events", "units"] = "events"


class SummaryMetric(_MetricBase):
    """Moments per arm and time from a source of kind summaries, cumulative since the start.

    `cohorts` says whether a unit's value is final once it counts (`complete`) or may still change
    (`open_ended`); `name` is what the source calls the metric. A ratio needs the moments of its
    denominator too. `made_from` names the metric over events that the warehouse aggregates, for
    `experiments sql`; its window is then this metric's too, so that looks fall on the same days.
    """

    kind: Literal["summary"]
    cohorts: Literal["complete", "open_ended"]
    source: Slug | None = None
    name: Text | None = None
    value: Literal["mean", "ratio"] = "mean"
    made_from: Slug | None = None


MetricSpec = Annotated[
    MeanMetric
    | CountMetric
    | ProportionMetric
    | RetentionMetric
    | RatioMetric
    | QuantileMetric
    | SummaryMetric,
    Field(discriminator="kind"),
]


class MetricsFile(Spec):
    """The whole file."""

    schema_version: Literal[1]
    metrics: dict[Slug, MetricSpec]

    @field_validator("metrics")
    @classmethod
    def _names_become_columns(cls, metrics: dict[str, MetricSpec]) -> dict[str, MetricSpec]:
        for name in metrics:
            if "-" in name or name[0].isdigit():
                msg = f"metric {name!r} becomes a column: use letters, digits and _, no digit first"
                raise ValueError(msg)
        return metrics


class Metric(Spec):
    """A resolved metric: what frames and estimators read.

    `parts` has one measure, or numerator and denominator. The outcome window is
    [start_day, start_day + window_days) after first exposure. A summary metric has no parts and no
    window, and `summary_source` and `summary_name` instead.
    """

    name: str
    kind: Literal["mean", "count", "proportion", "retention", "ratio", "quantile", "summary"]
    parts: tuple[Measure, ...]
    start_day: int
    window_days: int
    direction: Direction
    display_unit: str | None = None
    quantile: float | None = None
    of_events: bool = False
    summary_source: str | None = None
    summary_name: str | None = None
    summary_ratio: bool = False
    made_from: str | None = None
    is_open_ended: bool = False

    @property
    def end_day(self) -> int:
        """Days after exposure when the window is closed."""
        return self.start_day + self.window_days

    @property
    def maturity_days(self) -> int:
        """Days after exposure when a unit begins to count."""
        return 0 if self.is_open_ended else self.end_day

    @property
    def columns(self) -> tuple[tuple[str, Measure], ...]:
        """Frame columns of the outcome and the measure behind each."""
        names: tuple[str, ...] = () if self.is_summary else (self.name,)
        if self.is_ratio:
            names = (f"{self.name}_numerator", f"{self.name}_denominator")
        return tuple(zip(names, self.parts, strict=True))

    @property
    def is_ratio(self) -> bool:
        """Whether the metric lives in the ratio frame."""
        return self.kind == "ratio"

    @property
    def is_indicator(self) -> bool:
        """Whether a unit's value is 0 or 1."""
        return self.kind in ("proportion", "retention")

    @property
    def is_additive(self) -> bool:
        """Whether moments over units give its effect."""
        return not (self.is_summary or self.is_open_ended or self.quantile is not None)

    @property
    def is_summary(self) -> bool:
        """Whether the metric arrives as moments."""
        return self.kind == "summary"


def resolve_metric(name: str, spec: MetricSpec, default_source: str) -> Metric:
    """Fill defaults and name the measures.

    Args:
        name: The metric's name.
        spec: What the file says.
        default_source: The source of parts that name none.
    """
    if isinstance(spec, SummaryMetric):
        return Metric(
            name=name,
            kind="summary",
            parts=(),
            start_day=0,
            window_days=0,
            direction=spec.direction,
            display_unit=spec.display_unit,
            summary_source=spec.source or default_source,
            summary_name=spec.name or name,
            summary_ratio=spec.value == "ratio",
            is_open_ended=spec.cohorts == "open_ended",
            made_from=spec.made_from,
        )
    if isinstance(spec, RatioMetric):
        parts = tuple(
            part.measure(part.aggregate, default_source)
            for part in (spec.numerator, spec.denominator)
        )
    else:
        sums = isinstance(spec, MeanMetric | QuantileMetric)
        aggregate: Literal["sum", "count"] = "sum" if sums else "count"
        parts = (spec.measure(aggregate, default_source),)
    return Metric(
        name=name,
        kind=spec.kind,
        parts=parts,
        start_day=spec.start_day if isinstance(spec, RetentionMetric) else 0,
        window_days=spec.window_days,
        direction=spec.direction,
        display_unit=spec.display_unit,
        quantile=spec.quantile if isinstance(spec, QuantileMetric) else None,
        of_events=isinstance(spec, QuantileMetric) and spec.of == "events",
        is_open_ended=isinstance(spec, _WindowSpec) and spec.cohorts == "open_ended",
    )

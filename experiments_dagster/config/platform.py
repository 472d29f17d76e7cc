"""configs/platform.yaml: where data come from, where results live, who is told."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from experiments_dagster.alerts.channels import AlertSettings
from experiments_dagster.config.base import Count, Flag, Name, Slug, Spec, Text


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        msg = f"unknown time zone {name!r}; use a name such as Europe/Berlin or UTC"
        raise ValueError(msg)
    ZoneInfo(name)
    return name


TimeZoneName = Annotated[str, AfterValidator(_known_zone)]


class _Source(Spec):
    """Files (`path`, one pattern) or a table (`database` and `table`) with a column mapping.

    `timezone` says what a naive timestamp means; without it naive timestamps are refused.
    """

    path: Text | None = None
    database: Text | None = None
    table: Text | None = None
    timezone: TimeZoneName | None = None

    @model_validator(mode="after")
    def _one_place(self) -> _Source:
        if (self.path is None) == (self.table is None) or (self.table is None) != (
            self.database is None
        ):
            msg = "give either `path` (files) or `database` and `table`"
            raise ValueError(msg)
        return self


class EventColumns(Spec):
    """Which column of the input holds what. Without `event`, all rows have `event_name`."""

    unit: Text
    timestamp: Text
    event: Text | None = None
    event_id: Text | None = None
    value: Text | None = None


class EventSource(_Source):
    """A table of events: who did what when, worth how much.

    `value_decimals` stores values as exact decimals (money); without it as doubles.
    """

    kind: Literal["events"]
    columns: EventColumns
    event_name: Text | None = None
    properties: dict[Name, Text] = Field(default_factory=dict)
    value_decimals: Annotated[int, Field(strict=True, ge=0, le=6)] | None = None
    allow_negative: Flag = False

    @model_validator(mode="after")
    def _event_known(self) -> EventSource:
        if (self.columns.event is None) == (self.event_name is None):
            msg = "give either `columns.event` or one `event_name` for all rows"
            raise ValueError(msg)
        if self.table is not None and self.columns.event_id is None:
            msg = "a table needs `columns.event_id`, so that landing it again adds only new rows"
            raise ValueError(msg)
        return self


class ExposureColumns(Spec):
    """Which column of the input holds what."""

    unit: Text
    timestamp: Text
    experiment: Text | None = None
    variant: Text


class ExposureSource(_Source):
    """A table of exposures: which unit met which variant of which experiment when.

    Without `columns.experiment`, all rows belong to `experiment_name`. `properties` become
    segments at exposure.
    """

    kind: Literal["exposures"]
    columns: ExposureColumns
    experiment_name: Slug | None = None
    properties: dict[Name, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _experiment_known(self) -> ExposureSource:
        if (self.columns.experiment is None) == (self.experiment_name is None):
            msg = "give either `columns.experiment` or one `experiment_name` for all rows"
            raise ValueError(msg)
        return self


class SummaryColumns(Spec):
    """Which column of the input holds what; moments are cumulative up to `timestamp`.

    `variance` is the sample variance (ddof 1) over units. The three columns of the denominator
    belong together and are needed by ratio metrics only.
    """

    variant: Text
    timestamp: Text
    n: Text
    mean: Text
    variance: Text
    experiment: Text | None = None
    metric: Text | None = None
    denominator_mean: Text | None = None
    denominator_variance: Text | None = None
    covariance: Text | None = None

    @model_validator(mode="after")
    def _denominator_whole(self) -> SummaryColumns:
        given = {self.denominator_mean, self.denominator_variance, self.covariance}
        if None in given and len(given) > 1:
            msg = "give all of denominator_mean, denominator_variance and covariance, or none"
            raise ValueError(msg)
        return self


class SummarySource(_Source):
    """Moments that a warehouse aggregated: one row per experiment, variant, metric and time.

    Without `columns.experiment` or `columns.metric`, all rows belong to `experiment_name` or
    `metric_name`. Of rows for the same time the one landed last counts.
    """

    kind: Literal["summaries"]
    columns: SummaryColumns
    experiment_name: Slug | None = None
    metric_name: Text | None = None

    @model_validator(mode="after")
    def _names_known(self) -> SummarySource:
        for role, column, constant in (
            ("experiment", self.columns.experiment, self.experiment_name),
            ("metric", self.columns.metric, self.metric_name),
        ):
            if (column is None) == (constant is None):
                msg = f"give either `columns.{role}` or one `{role}_name` for all rows"
                raise ValueError(msg)
        return self


Source = Annotated[EventSource | ExposureSource | SummarySource, Field(discriminator="kind")]
MemoryLimit = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*(MB|GB)$")]


class SparkSettings(Spec):
    """Where Spark runs: a master URL, and settings of the session by their names."""

    master: Text = "local[2]"
    settings: dict[Text, Text] = Field(default_factory=dict)


def _month_day(text: str) -> str:
    month, _, day = text.partition("-")
    try:
        dt.date(2000, int(month), int(day))  # a leap year
    except ValueError:
        msg = f"no such day of the year: {text!r}; write month and day, such as 12-24"
        raise ValueError(msg) from None
    return text


MonthDay = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{2}-[0-9]{2}$"), AfterValidator(_month_day)
]


class AvoidedPeriod(Spec):
    """Days of every year in which no experiment should run; `12-10` to `01-10` crosses its end."""

    first: MonthDay
    last: MonthDay
    reason: Text


class Platform(Spec):
    """The whole file. Paths are relative to the folder that holds configs/.

    `engine` adds up what looks need; landing and the ledger are this machine's.
    """

    schema_version: Literal[1]
    storage: Text = ".experiments"
    timezone: TimeZoneName = "UTC"
    engine: Literal["duckdb", "spark"] = "duckdb"
    spark: SparkSettings | None = None
    memory_limit: MemoryLimit = "4GB"
    threads: Count = 2
    sources: dict[Slug, Source]
    alerts: AlertSettings = AlertSettings()
    avoid: tuple[AvoidedPeriod, ...] = ()

    @model_validator(mode="after")
    def _both_kinds(self) -> Platform:
        kinds = {source.kind for source in self.sources.values()}
        # A project of studies that read tables lands nothing.
        if kinds and not kinds & {"events", "summaries"}:
            msg = "needs at least one source of kind events or summaries"
            raise ValueError(msg)
        if self.spark is not None and self.engine != "spark":
            msg = "`spark` says where Spark runs; it needs `engine: spark`"
            raise ValueError(msg)
        return self

    def sources_of(self, kind: str) -> list[str]:
        """Names of the sources of one kind, in file order."""
        return [name for name, source in self.sources.items() if source.kind == kind]

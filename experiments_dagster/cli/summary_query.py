"""The text of the moments query: one function per step of the statement.

`cli.sql` decides what goes in; nothing here reads the configuration's rules. Names are quoted as
the tables have them, values as literals: the statement is printed for people to run elsewhere.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from experiments_dagster.config.metrics import Measure, Metric
from experiments_dagster.config.platform import EventSource, ExposureSource
from experiments_dagster.config.resolve import Experiment

NEXT_COLUMN = ",\n    "
Tables = Mapping[str, EventSource | ExposureSource]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One metric of the result: its name there, and the metric over events that it is made from.

    `cap` is the largest value of a unit that counts, None for no cap.
    """

    name: str
    metric: Metric
    cap: float | None

    @property
    def source(self) -> str:
        """The event source behind the metric."""
        return self.metric.parts[0].source


def statement(
    experiment: Experiment,
    outputs: Sequence[Output],
    looks: Sequence[dt.datetime],
    exposures: tuple[str, ExposureSource],
    events: Mapping[str, EventSource],
    *,
    waits: bool,
) -> str:
    """Return the SELECT without comments above it.

    Args:
        experiment: Window, name and arms.
        outputs: What to compute.
        looks: Instants up to which moments are wanted.
        exposures: Name and mapping of the exposures.
        events: Mapping of every event source that an output needs, by name.
        waits: Leave out a look until the table of its events has an event after it.
    """
    numbers = {name: number for number, name in enumerate(events, start=1)}
    steps = [_looks(looks), _first_seen(experiment, *exposures), _UNITS]
    for name, source in events.items():
        mine = [output for output in outputs if output.source == name]
        if waits:
            steps.append(_reach(numbers[name], name, source))
        steps.append(_events(numbers[name], name, source, mine))
        steps.append(_totals(numbers[name], mine))
    steps.append(_outcomes(outputs, numbers, waits=waits))
    return "WITH\n" + ",\n".join(steps) + "\n" + _moments(experiment, waits=waits)


def _looks(looks: Sequence[dt.datetime]) -> str:
    values = NEXT_COLUMN.join(f"({_instant(look)})" for look in looks)
    return f"looks (look_at) AS (\n  VALUES\n    {values}\n)"


def _first_seen(experiment: Experiment, name: str, source: ExposureSource) -> str:
    columns = source.columns
    is_ours = ""
    if columns.experiment is not None:
        is_ours = f"\n    WHERE {_text(columns.experiment)} = {_quoted(experiment.exposure_name)}"
    return f"""first_seen AS (  -- when a unit first met each variant
  SELECT unit, variant, MIN(occurred_at) AS seen_at
  FROM (
    SELECT {_text(columns.unit)} AS unit, {_text(columns.variant)} AS variant,
      {_utc(columns.timestamp, source.timezone)} AS occurred_at
    FROM {table_name(name, source)}{is_ours}
  ) AS given
  WHERE unit <> '' AND variant IS NOT NULL
    AND occurred_at >= {_instant(experiment.starts_at)}
    AND occurred_at < {_instant(experiment.ends_at)}
  GROUP BY unit, variant
)"""


_UNITS = """units AS (  -- the arm of the first exposure, and when the unit met another one
  SELECT unit, arm, exposed_at, crossed_at
  FROM (
    SELECT unit, variant AS arm, seen_at AS exposed_at,
      LEAD(seen_at) OVER (PARTITION BY unit ORDER BY seen_at, variant) AS crossed_at,
      ROW_NUMBER() OVER (PARTITION BY unit ORDER BY seen_at, variant) AS place
    FROM first_seen
  ) AS placed
  WHERE place = 1
)"""


def _reach(number: int, name: str, source: EventSource) -> str:
    time = _utc(source.columns.timestamp, source.timezone)
    return f"""reach_{number} AS (
  SELECT MAX({time}) AS known_until FROM {table_name(name, source)}
)"""


def _events(number: int, name: str, source: EventSource, outputs: Sequence[Output]) -> str:
    """The events that some metric counts, each once."""
    columns = source.columns
    parts = [part for output in outputs for part in output.metric.parts]
    wanted = sorted({event for part in parts for event in part.events})
    rules = [f"{_text(columns.event)} IN ({_listed(wanted)})"] if columns.event else []
    value = "CAST(NULL AS DOUBLE PRECISION)"
    if columns.value is not None:
        kind = "DOUBLE PRECISION"
        if source.value_decimals is not None:
            kind = f"DECIMAL(18, {source.value_decimals})"
        value = f"CAST({_name(columns.value)} AS {kind})"
        if not source.allow_negative:
            rules.append(f"({_name(columns.value)} IS NULL OR {_name(columns.value)} >= 0)")
    event = _text(columns.event) if columns.event else _quoted(source.event_name or "")
    properties = sorted({name for part in parts for name in part.where})
    place = "1"
    if columns.event_id is not None:
        by_id = f"PARTITION BY {_text(columns.event_id)}"
        place = f"ROW_NUMBER() OVER ({by_id} ORDER BY {_name(columns.timestamp)})"
        rules.append(f"{_name(columns.event_id)} IS NOT NULL")
    fields = [
        f"{_text(columns.unit)} AS unit",
        f"{event} AS event",
        f"{_utc(columns.timestamp, source.timezone)} AS occurred_at",
        f"{value} AS amount",
        *(
            f"{_text(source.properties[name])} AS {_name('property_' + name)}"
            for name in properties
        ),
        f"{place} AS place",
    ]
    where = "\n    WHERE " + "\n      AND ".join(rules) if rules else ""
    return f"""events_{number} AS (  -- each event once
  SELECT *
  FROM (
    SELECT {(NEXT_COLUMN + "  ").join(fields)}
    FROM {table_name(name, source)}{where}
  ) AS given
  WHERE place = 1
)"""


def _totals(number: int, outputs: Sequence[Output]) -> str:
    """One row per unit with events, one column per part of a metric, over its window."""
    columns = {
        name: (output.metric, part) for output in outputs for name, part in output.metric.columns
    }
    sums = NEXT_COLUMN.join(
        f"CAST(SUM(CASE WHEN {_counts(metric, part)}\n"
        f"      THEN {'e.amount' if part.aggregate == 'sum' else '1'} END) AS DOUBLE PRECISION)"
        f" AS {_name(name)}"
        for name, (metric, part) in columns.items()
    )
    return f"""totals_{number} AS (
  SELECT u.unit,
    {sums}
  FROM units AS u
  JOIN events_{number} AS e ON e.unit = u.unit
  GROUP BY u.unit
)"""


def _counts(metric: Metric, part: Measure) -> str:
    """Whether an event belongs to a part of a metric and falls into the unit's window."""
    rules = [
        f"e.occurred_at >= {_days_after('u.exposed_at', metric.start_day)}",
        f"e.occurred_at < {_days_after('u.exposed_at', metric.end_day)}",
        f"e.event IN ({_listed(part.events)})",
        *(
            f"e.{_name('property_' + name)} IN ({_listed(values)})"
            for name, values in part.where.items()
        ),
    ]
    return "\n      AND ".join(rules)


def _outcomes(outputs: Sequence[Output], numbers: Mapping[str, int], *, waits: bool) -> str:
    """One row per unit and metric; a unit without events has zeros."""
    selects = []
    for output in outputs:
        metric, number = output.metric, numbers[output.source]
        values = [f"COALESCE(t.{_name(name)}, 0)" for name, _ in metric.columns]
        if metric.is_indicator:
            values = [f"CASE WHEN {value} > 0 THEN 1 ELSE 0 END" for value in values]
        if output.cap is not None:
            values = [f"LEAST({value}, {output.cap!r})" for value in values]
        values = [f"CAST({value} AS DOUBLE PRECISION)" for value in values]
        if not metric.is_ratio:
            values.append("CAST(NULL AS DOUBLE PRECISION)")
        guard = f", (SELECT known_until FROM reach_{number}) AS known_until" if waits else ""
        selects.append(
            f"""  SELECT {_quoted(output.name)} AS metric, u.arm, u.crossed_at{guard},
    {_days_after("u.exposed_at", metric.end_day)} AS closed_at,
    {values[0]} AS y,
    {values[1]} AS d
  FROM units AS u
  LEFT JOIN totals_{number} AS t ON t.unit = u.unit"""
        )
    return "outcomes AS (\n" + "\n  UNION ALL\n".join(selects) + "\n)"


def _moments(experiment: Experiment, *, waits: bool) -> str:
    guard = "\n  AND l.look_at <= o.known_until" if waits else ""
    return f"""SELECT {_quoted(experiment.exposure_name)} AS experiment,
  o.arm AS variant,
  o.metric AS metric,
  l.look_at AT TIME ZONE 'UTC' AS "timestamp",
  COUNT(*) AS n,
  AVG(o.y) AS mean,
  VAR_SAMP(o.y) AS variance,
  AVG(o.d) AS denominator_mean,
  VAR_SAMP(o.d) AS denominator_variance,
  COVAR_SAMP(o.y, o.d) AS covariance
FROM outcomes AS o
JOIN looks AS l ON o.closed_at <= l.look_at{guard}
  AND (o.crossed_at IS NULL OR o.crossed_at >= l.look_at)
GROUP BY o.arm, o.metric, l.look_at
ORDER BY o.metric, l.look_at, o.arm;"""


def table_name(name: str, source: EventSource | ExposureSource) -> str:
    """The table as the user has it; files get the name of their source."""
    parts = source.table.split(".") if source.table else [name.replace("-", "_")]
    return ".".join(_name(part) for part in parts)


def _utc(column: str, zone: str | None) -> str:
    """A time column as naive UTC; a naive one is in the zone that the source declares."""
    if zone is None:
        return f"CAST({_name(column)} AS TIMESTAMP WITH TIME ZONE) AT TIME ZONE 'UTC'"
    local = f"CAST({_name(column)} AS TIMESTAMP) AT TIME ZONE {_quoted(zone)}"
    return f"({local}) AT TIME ZONE 'UTC'"


def _instant(instant: dt.datetime) -> str:
    return f"TIMESTAMP '{instant.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}'"


def _days_after(expression: str, days: int) -> str:
    return expression if days == 0 else f"{expression} + INTERVAL '{days}' DAY"


def _text(column: str) -> str:
    return f"CAST({_name(column)} AS VARCHAR)"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(_quoted(value) for value in values)


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"

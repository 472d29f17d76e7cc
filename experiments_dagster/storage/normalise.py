"""From a user's file or table to landed columns, with explicit casts and a reason per bad row.

Landed events: unit, occurred_at (UTC, naive), event, event_id, value, event_day (local date),
day_start, day_end (UTC, naive), then properties. Landed exposures: unit, occurred_at,
experiment, variant, event_id (made from the row), then properties. Landed summaries: unit (a key
made of the three names), occurred_at (up to when the moments are cumulative), experiment,
variant, metric, n, mean, variance, denominator_mean, denominator_variance, covariance.

A time with a zone or offset is an instant. A naive one needs the zone that the source declares;
in text (CSV) both may stand, and each value is judged by itself.

The schema is taken from the file's own footer or header and compared with the first landed file
of the source before any value is read: readers that cast silently round money.
"""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import duckdb

from experiments_dagster.config.platform import (
    EventSource,
    ExposureSource,
    Source,
    SummarySource,
)
from experiments_dagster.storage.duck import Duck, quote_name, quote_text

INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT"}
INTEGERS |= {"UINTEGER", "UBIGINT"}
TIMES = re.compile(r"^(TIMESTAMP(_S|_MS|_NS)?|DATE|TIMESTAMP WITH TIME ZONE|TIMESTAMP_NS WITH .*)$")
OLDEST = dt.datetime(2000, 1, 1)  # noqa: DTZ001  compared with naive UTC columns
TEXT = "VARCHAR"
MOMENTS = ("mean", "variance", "denominator_mean", "denominator_variance", "covariance")
NUMBERS = {"value", "n", *MOMENTS}
# By how much a covariance may exceed the product of the standard deviations: rounding.
CORRELATION_SLACK = 1e-6
OFFSET = r"[0-9]:[0-9]{2}(\.[0-9]+)? ?(Z|z|UTC|[+-][0-9]{2}(:?[0-9]{2})?)$"


class FileRefusedError(ValueError):
    """A whole file is not what its source says; the message names column and rule, no values."""


def read_columns(
    duck: Duck,
    source: Source,
    alias: str,
    path: Path,
    expected: dict[str, str] | None,
) -> tuple[str, dict[str, str]]:
    """The SQL that reads a file and the types of its mapped columns.

    Args:
        duck: A connection that may read the file.
        source: The column mapping.
        alias: The name of the attached database of a table source.
        path: A Parquet or CSV file; ignored for a table source.
        expected: Types of the first landed file, to refuse drift.

    Raises:
        FileRefusedError: Not readable, a mapped column is missing, or a type is wrong or drifted.
    """
    quoted = quote_text(str(path))
    if source.table is not None:
        reader = f"{alias}." + ".".join(quote_name(part) for part in source.table.split("."))
    elif path.suffix in (".parquet", ".pq"):
        reader = f"read_parquet({quoted})"
    elif path.name.endswith((".csv", ".csv.gz", ".tsv")):
        reader = f"read_csv({quoted}, all_varchar=true, header=true, null_padding=false)"
    else:
        raise FileRefusedError(f"unknown file type {path.suffix!r}; use .parquet or .csv")
    try:
        described = duck.query(f"SELECT column_name, column_type FROM (DESCRIBE FROM {reader})")
    except duckdb.Error as error:
        if source.table is not None:
            rule = f"table {source.table!r} cannot be read: no such table, or the database is "
            raise FileRefusedError(rule + "damaged or open elsewhere for writing") from None
        raise FileRefusedError(f"cannot be read: {_first_sentence(error)}") from None
    types = dict(described.select("column_name", "column_type").iter_rows())
    mapped = {}
    for role, column in _mapping(source).items():
        if column not in types:
            raise FileRefusedError(f"column {column!r} ({role}) is missing")
        mapped[column] = types[column]
        _check_type(role, column, types[column], is_csv=reader.startswith("read_csv"))
        if expected is not None and expected.get(column, types[column]) != types[column]:
            raise FileRefusedError(
                f"column {column!r} ({role}) is {types[column]}, earlier files have "
                f"{expected[column]}"
            )
    if reader.startswith("read_csv"):
        _check_csv_values(duck, source, reader)
    return reader, mapped


def value_type(source: Source) -> str | None:
    """The SQL type in which a source's values are landed; None where it has no values."""
    if not isinstance(source, EventSource):
        return None
    return "DOUBLE" if source.value_decimals is None else f"DECIMAL(18,{source.value_decimals})"


def select_rows(
    source: Source, reader: str, types: dict[str, str], zone: str, now: dt.datetime
) -> str:
    """The SELECT that turns one input into landed rows plus `reason` (NULL when fine).

    Args:
        source: The column mapping; its kind says which columns are landed.
        reader: SQL that reads the input, from `read_columns`.
        types: Types of the mapped columns, from `read_columns`.
        zone: Where local days begin.
        now: Aware time of landing.

    Raises:
        FileRefusedError: A naive timestamp without a declared zone.
    """
    if isinstance(source, EventSource):
        return select_events(source, reader, types, zone, now)
    if isinstance(source, ExposureSource):
        return select_exposures(source, reader, types, now)
    return select_summaries(source, reader, types, now)


def select_events(
    source: EventSource, reader: str, types: dict[str, str], zone: str, now: dt.datetime
) -> str:
    """The SELECT that turns one input into landed events plus `reason` (NULL when fine)."""
    columns = source.columns
    event = _text(columns.event) if columns.event else quote_text(source.event_name or "")
    raw = "NULL" if columns.value is None else quote_name(columns.value)
    exact = value_type(source)
    event_id = f"{_text(columns.event_id)} AS event_id, " if columns.event_id else ""
    rules = [
        *_common_rules(now),
        ("event IS NULL", "missing_event"),
        # Also text that is no number, and numbers that the decimal cannot hold.
        ("_given AND (value IS NULL OR NOT isfinite(_number))", "non_finite_value"),
        *([] if source.allow_negative else [("_number < 0", "negative_value")]),
        *([("event_id IS NULL", "missing_event_id")] if columns.event_id else []),
    ]
    occurred = _time(columns.timestamp, types[columns.timestamp], source.timezone)
    roles = f"""SELECT {_text(columns.unit)} AS unit, {occurred} AS occurred_at,
        {event} AS event, {event_id}try_cast({raw} AS {exact}) AS value,
        try_cast({raw} AS DOUBLE) AS _number, {raw} IS NOT NULL AS _given
        {_properties(source.properties)} FROM {reader}"""
    judged = f"SELECT * EXCLUDE (_number, _given), {_case(rules)} AS reason FROM ({roles})"
    local_day = f"timezone({quote_text(zone)}, occurred_at AT TIME ZONE 'UTC')::DATE"
    start, end = (_midnight(f"(event_day + {plus})::TIMESTAMP", zone) for plus in (0, 1))
    return f"""SELECT *, {start} AS day_start, {end} AS day_end
        FROM (SELECT *, {local_day} AS event_day FROM ({judged}))"""


def select_exposures(
    source: ExposureSource, reader: str, types: dict[str, str], now: dt.datetime
) -> str:
    """The SELECT that turns one input into landed exposures plus `reason`."""
    columns = source.columns
    experiment = (
        _text(columns.experiment)
        if columns.experiment
        else quote_text(source.experiment_name or "")
    )
    rules = [
        *_common_rules(now),
        ("experiment IS NULL", "missing_experiment"),
        ("variant IS NULL", "missing_variant"),
    ]
    occurred = _time(columns.timestamp, types[columns.timestamp], source.timezone)
    roles = f"""SELECT {_text(columns.unit)} AS unit, {occurred} AS occurred_at,
        {experiment} AS experiment, {_text(columns.variant)} AS variant
        {_properties(source.properties)} FROM {reader}"""
    row_id = "md5(to_json([unit, occurred_at::VARCHAR, experiment, variant])::VARCHAR)"
    return f"SELECT *, {row_id} AS event_id, {_case(rules)} AS reason FROM ({roles})"


def select_summaries(
    source: SummarySource, reader: str, types: dict[str, str], now: dt.datetime
) -> str:
    """The SELECT that turns one input into landed moments plus `reason`."""
    columns = source.columns
    experiment, metric = (
        _text(column) if column else quote_text(constant or "")
        for column, constant in (
            (columns.experiment, source.experiment_name),
            (columns.metric, source.metric_name),
        )
    )
    mapped = {role: column for role, column in columns if role in MOMENTS and column is not None}
    numbers = ", ".join(
        f"{_double(mapped[role])} AS {role}" if role in mapped else f"NULL::DOUBLE AS {role}"
        for role in MOMENTS
    )
    occurred = _time(columns.timestamp, types[columns.timestamp], source.timezone)
    roles = f"""SELECT {occurred} AS occurred_at, {experiment} AS experiment,
        {_text(columns.variant)} AS variant, {metric} AS metric, {_double(columns.n)} AS _n,
        {numbers} FROM {reader}"""
    key = "to_json([experiment, variant, metric])::VARCHAR"
    return f"""SELECT {key} AS unit, occurred_at, experiment, variant, metric,
        try_cast(_n AS BIGINT) AS n, {", ".join(MOMENTS)}, {_case(_moment_rules(now))} AS reason
        FROM ({roles})"""


def _moment_rules(now: dt.datetime) -> list[tuple[str, str]]:
    """What a row of moments must be; columns as in `select_summaries`, `_n` the count as given."""
    names = ("experiment", "variant", "metric")
    parts = ("denominator_mean", "denominator_variance", "covariance")
    some, whole = (word.join(f"{part} IS NOT NULL" for part in parts) for word in (" OR ", " AND "))
    is_partial = f"({some}) AND NOT ({whole})"
    # Roots before the product, which would overflow for two large variances.
    bound = "sqrt(abs(variance)) * sqrt(abs(denominator_variance))"
    return [
        *((f"{name} IS NULL OR {name} = ''", f"missing_{name}") for name in names),
        *_time_rules(now),
        ("_n IS NULL", "missing_n"),
        (
            " OR ".join(f"NOT isfinite({name})" for name in ("_n", *MOMENTS)),
            "non_finite_value",
        ),
        ("_n < 0", "negative_n"),
        ("_n != floor(_n) OR try_cast(_n AS BIGINT) IS NULL", "fractional_n"),
        ("_n >= 1 AND mean IS NULL", "missing_moment"),
        (f"_n >= 2 AND (variance IS NULL OR {is_partial})", "missing_moment"),
        ("variance < 0 OR denominator_variance < 0", "negative_variance"),
        (f"abs(covariance) > {bound} * {1 + CORRELATION_SLACK}", "impossible_covariance"),
    ]


def _mapping(source: Source) -> dict[str, str]:
    roles = {role: column for role, column in source.columns if column is not None}
    if isinstance(source, SummarySource):
        return roles
    return roles | {f"property {name}": column for name, column in source.properties.items()}


def _check_type(role: str, column: str, found: str, *, is_csv: bool) -> None:
    if is_csv:
        return
    if role == "timestamp" and not TIMES.match(found):
        raise FileRefusedError(
            f"column {column!r} (timestamp) is {found}, need a TIMESTAMP or DATE type"
        )
    is_number = found in INTEGERS or found in ("FLOAT", "DOUBLE") or found.startswith("DECIMAL")
    if role in NUMBERS and not is_number:
        raise FileRefusedError(f"column {column!r} ({role}) is {found}, need a number type")
    if role in ("unit", "event_id") and found not in INTEGERS | {TEXT, "UUID"}:
        raise FileRefusedError(f"column {column!r} ({role}) is {found}, need text or integers")


def _check_csv_values(duck: Duck, source: Source, reader: str) -> None:
    """Refuse a CSV whose lines are ragged or whose times or numbers do not parse."""
    rules = [(source.columns.timestamp, "is not a TIMESTAMP", "try_cast(v AS TIMESTAMP) IS NULL")]
    if source.timezone is None:
        rule = "has no time zone; declare `timezone` for the source"
        rules.append((source.columns.timestamp, rule, f"NOT {_has_offset('v')}"))
    rules += [
        (column, "is not a DOUBLE", "try_cast(v AS DOUBLE) IS NULL")
        for role, column in source.columns
        if role in NUMBERS and column is not None
    ]
    try:
        for column, rule, is_bad in rules:
            bad = duck.query(
                f"""SELECT min(line) AS line FROM (
                    SELECT row_number() OVER () + 1 AS line, {quote_name(column)} AS v
                    FROM {reader})
                WHERE v IS NOT NULL AND {is_bad}"""
            )["line"][0]
            if bad is not None:
                raise FileRefusedError(f"line {bad}: column {column!r} {rule}")
    except duckdb.Error as error:
        line = re.search(r"[Ll]ine:? (\d+)", str(error))
        where = f"line {line.group(1)}: " if line else ""
        raise FileRefusedError(f"{where}the line does not fit the header") from None


def _first_sentence(error: duckdb.Error) -> str:
    # Only the kind of problem: DuckDB's messages may quote the data themselves.
    known = ("No magic bytes found", "too small to be a Parquet file", "does not exist")
    text = str(error)
    return next((part for part in known if part in text), type(error).__name__)


def _common_rules(now: dt.datetime) -> list[tuple[str, str]]:
    return [("unit IS NULL OR unit = ''", "missing_unit"), *_time_rules(now)]


def _time_rules(now: dt.datetime) -> list[tuple[str, str]]:
    latest = (now + dt.timedelta(days=1)).astimezone(dt.UTC).replace(tzinfo=None)
    return [
        ("occurred_at IS NULL", "missing_time"),
        (
            f"occurred_at < TIMESTAMP '{OLDEST}' OR occurred_at > TIMESTAMP '{latest}'",
            "time_out_of_range",
        ),
    ]


def _case(rules: list[tuple[str, str]]) -> str:
    branches = " ".join(f"WHEN {rule} THEN '{reason}'" for rule, reason in rules)
    return f"CASE {branches} END"


def _text(column: str) -> str:
    return f"{quote_name(column)}::VARCHAR"


def _double(column: str) -> str:
    return f"try_cast({quote_name(column)} AS DOUBLE)"


def _properties(properties: dict[str, str]) -> str:
    return "".join(
        f", {_text(column)} AS {quote_name(name)}" for name, column in properties.items()
    )


def _time(column: str, found: str, zone: str | None) -> str:
    """An expression for naive UTC; naive input needs the zone that the source declares."""
    name = quote_name(column)
    if "WITH TIME ZONE" in found:
        return f"timezone('UTC', {name})"
    if found == TEXT:
        # Lines that are neither were refused by `_check_csv_values`.
        instant = f"timezone('UTC', {name}::TIMESTAMPTZ)"
        if zone is None:
            return instant
        local = f"timezone('UTC', timezone({quote_text(zone)}, {name}::TIMESTAMP))"
        return f"CASE WHEN {_has_offset(name)} THEN {instant} ELSE {local} END"
    if zone is None:
        raise FileRefusedError(
            f"column {column!r} (timestamp) has no time zone; declare `timezone` for the source"
        )
    return f"timezone('UTC', timezone({quote_text(zone)}, {name}::TIMESTAMP))"


def _midnight(local: str, zone: str) -> str:
    """The instant of a local midnight in naive UTC; the first where the clock shows it twice.

    DuckDB takes the second, an hour too late (Havana and the Azores set clocks back to 0:00).
    """
    instant, quoted = f"timezone('UTC', timezone({quote_text(zone)}, {local}))", quote_text(zone)
    hour_before = f"{instant} - INTERVAL 1 HOUR"
    shown = f"timezone({quoted}, ({hour_before}) AT TIME ZONE 'UTC')"
    return f"CASE WHEN {shown} = {local} THEN {hour_before} ELSE {instant} END"


def _has_offset(name: str) -> str:
    return f"regexp_matches({name}, {quote_text(OFFSET)})"

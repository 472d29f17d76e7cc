"""The one pass over events gives what partials per day and single events give, on every engine."""

import datetime as dt
from decimal import Decimal
from zoneinfo import ZoneInfo

import duckdb
import narwhals as nw
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments_dagster.config.metrics import Measure
from experiments_dagster.frames.definitions import (
    WindowTotal,
    measured_events,
    unit_days,
    window_totals,
)
from experiments_dagster.frames.dense_pass import numbered_units
from experiments_dagster.frames.one_pass import one_pass_totals
from experiments_dagster.storage.errors import ContractError

BERLIN = ZoneInfo("Europe/Berlin")
START = dt.datetime(2026, 3, 27, 22)  # the clock goes forward two days later
DAY = dt.timedelta(days=1)
REVENUE = Measure(source="events", events=("order", "renewal"), aggregate="sum")
ORDERS = Measure(source="events", events=("order",), aggregate="count")
VIEWS = Measure(source="events", events=("view",), aggregate="count", where={"page": ("home", "a")})
MEASURES = (REVENUE, ORDERS, VIEWS)
ENGINES = ["duckdb", "polars", "dense"]
UNITS = ("ann", "bob", "cem", "dee")
# Sums of cents are exact decimals and become doubles once: only the last digit may differ.
TIGHT = 1e-12

instants = st.one_of(
    st.integers(-3 * 24, 6 * 24).map(lambda hour: START + dt.timedelta(hours=hour)),
    st.integers(-3 * 86_400_000_000, 6 * 86_400_000_000).map(
        lambda us: START + dt.timedelta(microseconds=us)
    ),
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(UNITS),
        instants,
        st.sampled_from(["order", "renewal", "view", "scroll"]),
        st.one_of(st.none(), st.integers(0, 10_000).map(lambda cents: Decimal(cents) / 100)),
        st.sampled_from(["home", "a", "other", None]),
    ),
    max_size=12,
)
EXPOSED = st.dictionaries(st.sampled_from(UNITS[:3]), instants, min_size=1)
TOTALS = st.lists(
    st.tuples(
        st.sampled_from(MEASURES),
        st.integers(-3, 2),
        st.integers(1, 4),
        st.one_of(st.none(), st.just(START + 2 * DAY + dt.timedelta(hours=5))),
    ),
    min_size=1,
    max_size=4,
)


def landed(rows):
    """Events as they are landed: local days in Berlin and their limits as naive UTC."""
    table = pl.DataFrame(
        rows,
        schema={
            "unit": pl.String,
            "occurred_at": pl.Datetime("us"),
            "event": pl.String,
            "value": pl.Decimal(18, 2),
            "page": pl.String,
        },
        orient="row",
    ).with_row_index("event_id")
    days = [at.replace(tzinfo=dt.UTC).astimezone(BERLIN).date() for at in table["occurred_at"]]
    limits = {
        name: pl.Series(
            [
                dt.datetime.combine(day + shift, dt.time(), BERLIN)
                .astimezone(dt.UTC)
                .replace(tzinfo=None)
                for day in days
            ],
            dtype=pl.Datetime("us"),
        )
        for name, shift in (("day_start", 0 * DAY), ("day_end", DAY))
    }
    return table.with_columns(
        pl.col("event_id").cast(pl.String), event_day=pl.Series(days, dtype=pl.Date), **limits
    )


def exposed_units(exposed):
    """First exposures, as `first_exposures` gives them, less what no total reads."""
    schema = {"unit": pl.String, "exposed_at": pl.Datetime("us")}
    table = pl.DataFrame(list(exposed.items()), schema=schema, orient="row")
    return table.with_columns(arm=pl.lit("control"))


def on(engine, connection, table):
    """The table as a lazy frame of an engine."""
    if engine == "polars":
        return nw.from_native(table.lazy())
    return nw.from_native(connection.from_arrow(table.to_arrow()))


def collected(frame):
    native = frame.sort("unit").to_native()
    return native.collect() if isinstance(native, pl.LazyFrame) else native.pl()


def added_up(engine, connection, who, events, totals, *, deduplicate=False):
    """The totals of the one pass: in the engine, or numbered and added up in this process."""
    if engine != "dense":
        found = one_pass_totals(who, events, MEASURES, totals, deduplicate=deduplicate)
        return collected(found)
    once = who.with_columns(n_exposures=nw.lit(1), n_arms=nw.lit(1))
    with numbered_units(connection, once) as units:
        sums = units.totals(events, MEASURES, totals, deduplicate=deduplicate)
        known = connection.sql(f"FROM {units.table} ORDER BY rowid").pl()
    return known.with_columns(**{name: pl.Series(total) for name, total in sums.items()}).sort(
        "unit"
    )


def window_plan(drawn):
    """A window that ends with the look counts up to it; others begin where they like."""
    return [
        WindowTotal(
            name=f"total_{k}",
            measure=measure.key,
            start_day=start,
            end_day=start + length,
            until=until,
        )
        for k, (measure, start, length, until) in enumerate(drawn)
    ]


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=40, deadline=None)
@given(rows=EVENTS, exposed=EXPOSED, drawn=TOTALS, repeats=st.integers(0, 3))
def test_one_pass_equals_partials(engine, rows, exposed, drawn, repeats):
    events, exposures, totals = landed(rows), exposed_units(exposed), window_plan(drawn)
    delivered = pl.concat([events, *[events.head(5)] * repeats])
    with duckdb.connect() as connection:
        once, again, who = (
            on(engine, connection, table) for table in (events, delivered, exposures)
        )
        measured = measured_events(once, MEASURES)
        expected = collected(window_totals(who, unit_days(measured, MEASURES), measured, totals))
        plain = added_up(engine, connection, who, once, totals)
        distinct = added_up(engine, connection, who, again, totals, deduplicate=True)
    for found in (plain, distinct):
        assert found.schema == expected.schema
        identity = ["unit", "exposed_at", "arm"]
        assert found.select(identity).equals(expected.select(identity))
        for total in totals:
            assert found[total.name].to_list() == pytest.approx(
                expected[total.name].to_list(), rel=TIGHT, abs=TIGHT
            )


@pytest.mark.parametrize("engine", ENGINES)
def test_windows_are_half_open_and_repeats_count_once_only_where_asked(engine):
    at = START + 12 * dt.timedelta(hours=1)
    rows = [
        ("ann", at, "order", Decimal("1.00"), "home"),
        ("ann", at + DAY - dt.timedelta(microseconds=1), "order", Decimal("2.00"), "home"),
        ("ann", at + DAY, "order", Decimal("4.00"), "home"),
        ("ann", at - dt.timedelta(microseconds=1), "order", Decimal("8.00"), "home"),
        ("eve", at, "order", Decimal("16.00"), "home"),  # never exposed
    ]
    events = landed(rows)
    totals = [
        WindowTotal(name="after", measure=REVENUE.key, start_day=0, end_day=1),
        WindowTotal(name="before", measure=ORDERS.key, start_day=-1, end_day=0),
    ]
    delivered = pl.concat([events, events])
    with duckdb.connect() as connection:
        who = on(engine, connection, exposed_units({"ann": at, "bob": at}))
        twice = on(engine, connection, delivered)
        found = [
            added_up(engine, connection, who, twice, totals, deduplicate=flag)
            .select("unit", "after", "before")
            .rows()
            for flag in (True, False)
        ]
    assert found == [
        [("ann", 3.0, 1.0), ("bob", 0.0, 0.0)],
        [("ann", 6.0, 2.0), ("bob", 0.0, 0.0)],
    ]


def test_a_property_that_the_events_lack_counts_nothing():
    events = landed([("ann", START, "view", None, "home")]).drop("page")
    totals = [WindowTotal(name="views", measure=VIEWS.key, start_day=0, end_day=1)]
    who = nw.from_native(exposed_units({"ann": START}).lazy())
    found = collected(one_pass_totals(who, nw.from_native(events.lazy()), MEASURES, totals))
    assert found["views"].to_list() == [0.0]


def test_totals_that_are_the_same_under_two_names_are_both_there():
    events = landed([("ann", START, "order", Decimal("3.00"), "home")])
    totals = [
        WindowTotal(name=name, measure=ORDERS.key, start_day=0, end_day=1)
        for name in ("orders", "bought")
    ]
    who = nw.from_native(exposed_units({"ann": START}).lazy())
    found = collected(one_pass_totals(who, nw.from_native(events.lazy()), MEASURES, totals))
    assert found.columns == ["unit", "exposed_at", "arm", "orders", "bought"]
    assert found.select("orders", "bought").rows() == [(1.0, 1.0)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_window_that_ends_with_the_look_cuts_no_other(engine):
    events = landed([("ann", START + DAY, "order", Decimal("3.00"), "home")])
    look = START + dt.timedelta(hours=1)
    totals = [
        WindowTotal(name="open", measure=ORDERS.key, start_day=0, end_day=4, until=look),
        WindowTotal(name="closed", measure=ORDERS.key, start_day=0, end_day=2),
    ]
    with duckdb.connect() as connection:
        who = on(engine, connection, exposed_units({"ann": START}))
        once = on(engine, connection, events)
        found = added_up(engine, connection, who, once, totals)
    assert found.select("open", "closed").rows() == [(0.0, 1.0)]


@pytest.mark.parametrize("units", [["ann", "bob", "ann"], ["ann", None]])
def test_units_are_numbered_only_where_each_is_one_row(units):
    n = len(units)
    table = pl.DataFrame({"unit": units, "exposed_at": [START] * n, "arm": ["a"] * n})
    with duckdb.connect() as connection:
        who = on("duckdb", connection, table).with_columns(n_exposures=nw.lit(1), n_arms=nw.lit(1))
        with (
            numbered_units(connection, who) as numbered,
            pytest.raises(ContractError, match=r"first exposures.*unit (is_unique|not_null): 1"),
        ):
            numbered.refuse_repeated()
        assert connection.sql("SHOW TABLES").fetchall() == []


def test_a_pass_leaves_the_settings_of_the_connection_as_they_were():
    ask = (
        "SELECT current_setting('disabled_optimizers'), current_setting('preserve_insertion_order')"
    )
    events = landed([("ann", START, "order", Decimal("3.00"), "home")])
    totals = [WindowTotal(name="orders", measure=ORDERS.key, start_day=0, end_day=1)]
    with duckdb.connect() as connection:
        connection.execute("SET disabled_optimizers = 'statistics_propagation'")
        before = connection.sql(ask).fetchall()
        who, seen = (
            on("dense", connection, table) for table in (exposed_units({"ann": START}), events)
        )
        found = added_up("dense", connection, who, seen, totals)
        assert found["orders"].to_list() == [1.0]
        assert connection.sql(ask).fetchall() == before

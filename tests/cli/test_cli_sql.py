"""`experiments sql`: the printed query gives the moments of our own frames."""

import datetime as dt
import textwrap

import duckdb
import numpy as np
import polars as pl
import pytest
import typer
from factories import (
    EXPERIMENT,
    METRICS,
    PLATFORM,
    events_table,
    exposures_table,
    incoming,
    land_now,
    make_project,
    manifest_of,
    utc,
    write_configs,
)
from polars.testing import assert_frame_equal
from shop_factory import land_all, shop_project
from typer.testing import CliRunner

from experiments_dagster.cli import sql
from experiments_dagster.config.errors import ConfigError
from experiments_dagster.config.project import load_project
from experiments_dagster.frames.summaries import build_summaries
from experiments_dagster.frames.unit_frames import build_unit_frames
from experiments_dagster.stats.moments import ArmMoments

# Both sides add up the same doubles in another order: a few units in the last place each.
TOLERANCE = 1e-9
NUMBERS = ["mean", "variance", "denominator_mean", "denominator_variance", "covariance"]
CLOSING = utc(2026, 4, 30)

app = typer.Typer()
sql.register(app)
app.command()(lambda: None)  # with a second command the first one keeps its name


def printed(project, slug="trial", *options, code=0):
    arguments = ["sql", slug, "--config-dir", str(project.folder), *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else " ".join(result.stderr.split())


def rows_of(query, **tables):
    """Rows of the query in a DuckDB that knows the tables, in a zone of its own."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='Asia/Tokyo'")
        for name, table in tables.items():
            connection.register(name, table)
        rows = connection.sql(query).pl()
    return rows.with_columns(pl.col("timestamp").dt.convert_time_zone("UTC"))


def frame_rows(project, as_of):
    """What our frames say at a look: (metric, arm) -> n and moments."""
    manifest, trial = manifest_of(project), project.experiments["trial"]
    frames = build_unit_frames(
        project, manifest, trial, cutoff=manifest.head, as_of=as_of, publish=False
    )
    found = {}
    for metric in trial.metrics:
        names = [name for name, _ in metric.columns]
        mature = frames.of(metric).filter(pl.col(names[0]).is_not_null())
        for arm in trial.variants:
            of_arm = mature.filter(pl.col("arm") == arm)
            if not of_arm.is_empty():
                columns = {name: of_arm[name].to_numpy() for name in names}
                found[metric.name, arm] = numbers(ArmMoments.from_arrays(**columns))
    return found


def numbers(arm):
    """n and the five numbers of a row, None where there are none."""
    first, *others = arm.columns
    variance = arm.variance(first) if arm.n > 1 else None
    row = [arm.n, arm.mean(first), variance]
    for second in others:
        row += [arm.mean(second)]
        row += [arm.variance(second), arm.covariance(first, second)] if arm.n > 1 else [None] * 2
    return row + [None] * (6 - len(row))


def assert_same(project, rows, looks):
    """The query's rows are the frames' moments at each look, and there are no others."""
    compared = 0
    for look in looks:
        at_look = rows.filter(pl.col("timestamp") == look)
        wanted = frame_rows(project, look)
        found = {
            (row["metric"], row["variant"]): [row["n"], *(row[name] for name in NUMBERS)]
            for row in at_look.iter_rows(named=True)
        }
        assert found.keys() == wanted.keys()
        for key, values in wanted.items():
            assert [v is None for v in found[key]] == [v is None for v in values], key
            left, right = ([v for v in side if v is not None] for side in (found[key], values))
            np.testing.assert_allclose(left, right, rtol=TOLERANCE, atol=1e-15, err_msg=str(key))
            compared += 1
    assert rows.height == compared
    return compared


def messy_project(folder):
    """Units of two arms, repeated events, events on the limits, before and after."""
    project = make_project(folder)
    rng = np.random.default_rng(4)
    start = utc(2026, 3, 1, 20)
    exposures, events = [], []
    for unit in range(240):
        name = f"u{unit}"
        at = start + dt.timedelta(minutes=int(rng.integers(0, 31 * 24 * 60)))
        arm = ("control", "treatment")[int(rng.integers(2))]
        exposures += [(name, at, arm), (name, at + dt.timedelta(hours=5), arm)]
        if unit % 20 == 0:  # meets the other arm days later: counts at first, then no more
            other = "control" if arm == "treatment" else "treatment"
            exposures.append((name, at + dt.timedelta(days=int(rng.integers(1, 15))), other))
        times = [at, at + dt.timedelta(days=7), at + dt.timedelta(days=3)]
        times += [at + dt.timedelta(hours=float(h)) for h in rng.uniform(-100, 400, 6)]
        for place, time in enumerate(times):
            kind = ("order", "order", "visit")[place % 3]
            events.append((name, time, kind, f"{name}-{place}", round(float(rng.gamma(2, 9)), 2)))
    events += events[::7]  # the same rows again
    closing = ("nobody", CLOSING, "visit", "closing", None)
    tables = {"events": events_table([*events, closing]), "exposures": exposures_table(exposures)}
    for source, table in tables.items():
        incoming(project, source, "all", table)
    land_now(project)
    return project, tables


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """One such project with its tables; read only."""
    return messy_project(tmp_path_factory.mktemp("messy"))


def test_the_query_gives_the_moments_of_the_frames_at_every_look(messy):
    project, tables = messy
    query = printed(project)
    assert "Standard SQL that runs on DuckDB" in query
    rows = rows_of(query, **tables)
    looks = sorted(rows["timestamp"].unique())
    assert len(looks) == len(project.experiments["trial"].planned_looks())
    assert assert_same(project, rows, looks) == 4 * 5 * 2
    counts = rows.filter(metric="spend", variant="control").sort("timestamp")["n"]
    assert counts.is_sorted()


def test_a_look_waits_until_the_events_have_passed_it(messy):
    project, tables = messy
    looks = sorted(rows_of(printed(project), **tables)["timestamp"].unique())
    early = tables["events"].filter(pl.col("at") < looks[1])
    partly = rows_of(printed(project), events=early, exposures=tables["exposures"])
    assert partly["timestamp"].unique().to_list() == looks[:1]


def test_as_of_takes_the_tables_to_be_complete_and_stops_there(messy):
    project, tables = messy
    everything = rows_of(printed(project), **tables)
    looks = sorted(everything["timestamp"].unique())
    planned = project.experiments["trial"].planned_looks()
    early = tables["events"].filter(pl.col("at") < looks[1])
    query = printed(project, "trial", "--as-of", str(planned[1]))
    rows = rows_of(query, events=early, exposures=tables["exposures"])
    # A parallel average of doubles has no fixed last digit.
    assert_frame_equal(rows, everything.filter(pl.col("timestamp") <= looks[1]), rel_tol=1e-12)
    error = printed(project, "trial", "--as-of", "2026-03-01", code=2)
    assert "--as-of 2026-03-01" in error
    assert str(planned[0]) in error


def test_columns_constants_properties_decreasing_zones_and_quotes(tmp_path):
    platform = """
        schema_version: 1
        storage: store
        timezone: America/Sao_Paulo
        sources:
          shop-orders:
            kind: events
            path: incoming/events/*
            timezone: America/New_York
            columns: {unit: "the user", timestamp: at, event_id: id, value: amount}
            event_name: it's an order
            properties: {country: land}
          exposures:
            kind: exposures
            path: incoming/exposures/*
            timezone: UTC
            columns: {unit: user, timestamp: at, variant: variant}
            experiment_name: trial
    """
    metrics = """
        schema_version: 1
        metrics:
          spend:
            kind: mean
            event: it's an order
            where: {country: [DE, "d'Or"]}
            window_days: 3
          p90: {kind: quantile, event: it's an order, window_days: 3, quantile: 0.9}
    """
    experiment = textwrap.dedent(EXPERIMENT)
    experiment = experiment.replace("secondary: [orders, bought, back]", "secondary: [p90]")
    experiment = experiment.replace("guardrails: [{metric: basket, margin: 0.2}]", "guardrails: []")
    project = make_project(tmp_path, platform=platform, metrics=metrics, trial=experiment)
    rng = np.random.default_rng(8)
    n = 60
    at = [dt.datetime(2026, 3, 5) + dt.timedelta(hours=int(h)) for h in rng.integers(0, 300, n)]
    users = [f"u{k}" for k in range(n)]
    exposures = pl.DataFrame({"user": users, "at": at}).with_columns(
        variant=pl.Series(rng.choice(["control", "treatment"], n))
    )
    events = pl.DataFrame(
        {
            "the user": users * 4,
            "at": [t + dt.timedelta(hours=float(h)) for h in rng.uniform(-20, 90, 4) for t in at],
            "id": range(4 * n),
            "amount": rng.gamma(2.0, 10.0, 4 * n),
            "land": rng.choice(["DE", "d'Or", "FR"], 4 * n),
        }
    )
    closing = pl.DataFrame(
        [("nobody", CLOSING.replace(tzinfo=None), 10_000, 1.0, "DE")], events.schema, orient="row"
    )
    events = pl.concat([events, closing])
    incoming(project, "events", "all", events)
    incoming(project, "exposures", "all", exposures)
    land_now(project)
    query = printed(project)
    assert "-- left out: p90, a quantile has no moments" in query
    rows = rows_of(query, shop_orders=events, exposures=exposures)
    assert rows["n"].sum() > 100
    trial = project.experiments["trial"]
    spend_only = project.experiments | {"trial": trial.model_copy(update={"secondary": ()})}
    object.__setattr__(project, "experiments", spend_only)
    assert_same(project, rows, sorted(rows["timestamp"].unique()))


def test_a_confidence_sequence_has_rows_for_every_day_until_all_windows_are_closed(tmp_path):
    looks = "{schedule: daily, design: {kind: confidence_sequence}}"
    project = shop_project(tmp_path, n_users=150, looks=looks)
    land_all(project)
    tables = {
        name: pl.read_parquet(project.folder / "incoming" / name / "trial.parquet")
        for name in ("shop_events", "exposures")
    }
    rows = rows_of(printed(project, "trial", "--as-of", "2026-04-06"), **tables)
    days = sorted(rows["timestamp"].unique())
    assert (days[0], days[-1], len(days)) == (utc(2026, 3, 10), utc(2026, 4, 6), 28)
    some = [days[0], days[13], days[20]]
    assert_same(project, rows.filter(pl.col("timestamp").is_in(some)), some)


def test_the_rows_land_as_summaries_and_give_the_same_moments(messy, tmp_path):
    """The whole way: query here, rows into a source of summaries, moments out of it."""
    project, tables = messy
    rows = rows_of(printed(project), **tables)
    platform = """
        schema_version: 1
        storage: store
        timezone: Europe/Berlin
        sources:
          moments:
            kind: summaries
            path: incoming/moments/*
            columns:
              {experiment: experiment, variant: variant, metric: metric, timestamp: timestamp,
               n: n, mean: mean, variance: variance, denominator_mean: denominator_mean,
               denominator_variance: denominator_variance, covariance: covariance}
    """
    metrics = """
        schema_version: 1
        metrics:
          spend: {kind: summary, cohorts: complete}
          basket: {kind: summary, cohorts: complete, value: ratio}
    """
    experiment = textwrap.dedent(EXPERIMENT).replace("{kind: cuped, covariate_days: 14}", "{}")
    experiment = experiment.replace("estimator: {}", "estimator: {kind: unadjusted}")
    experiment = experiment.replace("  secondary: [orders, bought, back]\n", "")
    (tmp_path / "incoming" / "moments").mkdir(parents=True)
    write_configs(tmp_path, platform=platform, metrics=metrics, trial=experiment)
    receiver = load_project(tmp_path)
    rows.write_parquet(tmp_path / "incoming" / "moments" / "all.parquet")
    (file,) = land_now(receiver).batch.sources["moments"].files
    assert (file.kept, file.quarantined) == (rows.height, 0)
    manifest, trial = manifest_of(receiver), receiver.experiments["trial"]
    for look in sorted(rows["timestamp"].unique()):
        found = build_summaries(receiver, manifest, trial, cutoff=1, as_of=look, publish=False)
        wanted = frame_rows(project, look)
        for key, moments in found.moments.items():
            np.testing.assert_allclose(
                [v for v in numbers(moments) if v is not None],
                [v for v in wanted[key] if v is not None],
                rtol=TOLERANCE,
            )


SUMMARY_METRICS = METRICS + (
    "      given: {kind: summary, cohorts: complete, name: net spend, made_from: spend}\n"
    "      lost: {kind: summary, cohorts: complete}\n"
)
SUMMARY_SOURCE = PLATFORM + (
    "      moments:\n"
    "        kind: summaries\n"
    "        path: incoming/moments/*\n"
    "        columns: {experiment: e, variant: v, metric: m, timestamp: t, n: n, mean: mean,\n"
    "          variance: variance}\n"
)


def summary_experiment(metric):
    text = textwrap.dedent(EXPERIMENT).replace("metric: spend,", f"metric: {metric},")
    text = text.replace("{kind: cuped, covariate_days: 14}", "{kind: unadjusted}")
    text = text.replace("  secondary: [orders, bought, back]\n", "")
    return text.replace("  guardrails: [{metric: basket, margin: 0.2}]\n", "")


def test_a_summary_metric_is_made_from_the_metric_it_names(messy, tmp_path):
    reference, tables = messy
    configs = {"platform": SUMMARY_SOURCE, "metrics": SUMMARY_METRICS}
    project = make_project(tmp_path, **configs, trial=summary_experiment("given"))
    rows = rows_of(printed(project), **tables)
    assert rows["metric"].unique().to_list() == ["net spend"]
    for look in sorted(rows["timestamp"].unique())[1:]:
        wanted = frame_rows(reference, look)["spend", "treatment"]
        row = rows.filter(timestamp=look, variant="treatment").row(0, named=True)
        assert row["n"] == wanted[0]
        assert [row["mean"], row["variance"]] == pytest.approx(wanted[1:3], rel=TOLERANCE)


def test_a_metric_that_names_no_origin_is_refused_by_its_key(tmp_path):
    configs = {"platform": SUMMARY_SOURCE, "metrics": SUMMARY_METRICS}
    project = make_project(tmp_path, **configs, trial=summary_experiment("lost"))
    assert "metrics.lost.made_from is missing" in printed(project, code=2)


@pytest.mark.parametrize(
    ("made_from", "rule"),
    [
        ("nothing", "'nothing' is no metric over events; known: spend, orders, bought, back, b"),
        ("given", "'given' is no metric over events"),
        ("basket", "'basket' is a ratio; need `value: ratio`"),
    ],
)
def test_an_impossible_origin_is_a_mistake_in_the_metrics_file(tmp_path, made_from, rule):
    metrics = SUMMARY_METRICS + (
        f"      odd: {{kind: summary, cohorts: complete, made_from: {made_from}}}\n"
    )
    write_configs(tmp_path, platform=SUMMARY_SOURCE, metrics=metrics)
    with pytest.raises(ConfigError) as caught:
        load_project(tmp_path)
    (issue,) = caught.value.issues
    assert issue.path == "metrics.odd.made_from"
    assert rule in issue.rule


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mde: 0.1", "mde: 0.1\n  cap: {quantile: 0.9, from: pre_period}", "plan.cap"),
        ("exposure", "exposure", "unknown experiment 'other'; known: trial"),
    ],
)
def test_plans_that_moments_cannot_serve_are_refused(tmp_path, old, new, message):
    experiment = textwrap.dedent(EXPERIMENT).replace(old, new)
    project = make_project(tmp_path, trial=experiment)
    slug = "other" if "other" in message else "trial"
    assert message in printed(project, slug, code=2)


def test_a_capped_value_counts_as_the_cap(messy, tmp_path):
    reference, tables = messy
    experiment = textwrap.dedent(EXPERIMENT).replace("mde: 0.1", "mde: 0.1\n  cap: {value: 20.0}")
    project = make_project(tmp_path, trial=experiment)
    rows = rows_of(printed(project), **tables).filter(metric="spend")
    manifest, trial = manifest_of(reference), reference.experiments["trial"]
    look = rows["timestamp"].max()
    frames = build_unit_frames(
        reference, manifest, trial, cutoff=manifest.head, as_of=look, publish=False
    )
    values = frames.user.filter(arm="control")["spend"].drop_nulls().to_numpy()
    row = rows.filter(timestamp=look, variant="control").row(0, named=True)
    assert row["mean"] == pytest.approx(np.minimum(values, 20.0).mean(), rel=TOLERANCE)

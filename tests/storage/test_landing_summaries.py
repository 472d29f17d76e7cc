"""Landing of moments that a warehouse aggregated: every row is kept or named, none is guessed."""

import datetime as dt
import math

import polars as pl
import pytest
from factories import land_now, manifest_of, utc, write_configs
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments_dagster.config.project import load_project
from experiments_dagster.storage.layout import Layout

PLATFORM = """
    schema_version: 1
    storage: store
    sources:
      moments:
        kind: summaries
        path: incoming/moments/*
        columns:
          experiment: experiment
          variant: variant
          metric: metric
          timestamp: at
          n: n
          mean: mean
          variance: variance
          denominator_mean: d_mean
          denominator_variance: d_var
          covariance: cov
"""
METRICS = """
    schema_version: 1
    metrics:
      spend: {kind: summary, cohorts: complete}
      basket: {kind: summary, cohorts: complete, value: ratio}
"""
EXPERIMENT = """
    schema_version: 1
    owner: team:growth
    hypothesis: {primary: "More spend"}
    variants: {control: 0.5, treatment: 0.5}
    salt: a-salt-of-its-own
    window: {start: 2026-03-02, end: 2026-03-30}
    metrics:
      primary: {metric: spend}
      secondary: [basket]
    plan:
      mde: 0.1
      estimator: {kind: unadjusted}
      looks: {schedule: weekly, design: {kind: group_sequential, planned: 4}}
"""
T = utc(2026, 3, 9)
FIELDS = ("experiment", "variant", "metric", "at", "n", "mean", "variance", "d_mean", "d_var")
FIELDS += ("cov",)
SCHEMA = dict.fromkeys(FIELDS[:3], pl.String) | {"at": pl.Datetime("us", "UTC")}
SCHEMA |= dict.fromkeys(FIELDS[4:], pl.Float64)
ROW = {
    "experiment": "trial",
    "variant": "control",
    "metric": "spend",
    "at": T,
    "n": 100.0,
    "mean": 2.5,
    "variance": 4.0,
    "d_mean": None,
    "d_var": None,
    "cov": None,
}
RATIO = {"d_mean": 3.0, "d_var": 1.0, "cov": 1.5}


@pytest.fixture
def project(tmp_path):
    return make_moments_project(tmp_path)


def make_moments_project(folder, platform=PLATFORM):
    (folder / "incoming" / "moments").mkdir(parents=True)
    configs = {"platform": platform, "metrics": METRICS, "trial": EXPERIMENT}
    return load_project(write_configs(folder, **configs))


def land_rows(project, name, *rows, schema=SCHEMA):
    table = pl.DataFrame([ROW | row for row in rows], schema=schema)
    table.write_parquet(project.folder / "incoming" / "moments" / f"{name}.parquet")
    return files(land_now(project))[-1]


def files(report):
    return report.batch.sources["moments"].files


def landed(project):
    manifest = manifest_of(project)
    tables = manifest.tables("moments", up_to=manifest.head)
    return pl.concat([pl.read_parquet(manifest.verified(table)) for _, table in tables])


def quarantined(project, sequence=1):
    return pl.read_parquet(Layout(project.storage).quarantined("moments", sequence))


def fates(file):
    return file.kept, file.deduplicated, file.quarantined


def test_a_row_lands_with_its_names_time_and_moments(project):
    file = land_rows(project, "a", {}, {"metric": "basket", **RATIO})
    assert fates(file) == (2, 0, 0)
    rows = landed(project)
    assert rows.schema == {
        "unit": pl.String,
        "occurred_at": pl.Datetime("us"),
        "experiment": pl.String,
        "variant": pl.String,
        "metric": pl.String,
        "n": pl.Int64,
        **dict.fromkeys(
            ("mean", "variance", "denominator_mean", "denominator_variance", "covariance"),
            pl.Float64,
        ),
    }
    by_metric = {row["metric"]: row for row in rows.iter_rows(named=True)}
    assert by_metric["spend"]["occurred_at"] == T.replace(tzinfo=None)
    assert by_metric["spend"]["denominator_mean"] is None
    assert (by_metric["basket"]["n"], by_metric["basket"]["covariance"]) == (100, 1.5)


def test_the_unit_is_a_key_that_no_two_series_share(project):
    names = [("a", "b-c"), ("a-b", "c"), ('a","b', "c"), ("a", "b")]
    land_rows(project, "a", *({"experiment": e, "variant": v} for e, v in names))
    land_rows(project, "b", *({"experiment": e, "variant": v, "n": 5.0} for e, v in names))
    keys = landed(project).group_by("unit").len()
    assert keys.height == len(names)
    assert set(keys["len"]) == {2}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"experiment": None}, "missing_experiment"),
        ({"variant": ""}, "missing_variant"),
        ({"metric": None}, "missing_metric"),
        ({"at": None}, "missing_time"),
        ({"at": utc(1999, 12, 31)}, "time_out_of_range"),
        ({"at": utc(2027, 1, 1)}, "time_out_of_range"),
        ({"n": None}, "missing_n"),
        ({"n": -1.0}, "negative_n"),
        ({"n": 10.5}, "fractional_n"),
        ({"n": 1e19}, "fractional_n"),
        ({"n": math.nan}, "non_finite_value"),
        ({"mean": math.inf}, "non_finite_value"),
        ({"variance": math.nan}, "non_finite_value"),
        ({**RATIO, "cov": -math.inf}, "non_finite_value"),
        ({"mean": None}, "missing_moment"),
        ({"mean": None, "n": 1.0}, "missing_moment"),
        ({"variance": None}, "missing_moment"),
        ({"variance": None, "n": 2.0}, "missing_moment"),
        ({**RATIO, "cov": None}, "missing_moment"),
        ({**RATIO, "d_mean": None}, "missing_moment"),
        ({"variance": -1e-9}, "negative_variance"),
        ({**RATIO, "d_var": -1.0}, "negative_variance"),
        ({**RATIO, "cov": 2.1}, "impossible_covariance"),
        ({**RATIO, "cov": -2.1}, "impossible_covariance"),
    ],
)
def test_a_bad_row_is_quarantined_with_its_reason_and_stops_no_other(project, change, reason):
    file = land_rows(project, "a", {}, change)
    assert fates(file) == (1, 0, 1)
    assert file.reasons == {reason: 1}
    assert quarantined(project)["reason"].to_list() == [reason]
    assert landed(project).height == 1


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0.0, "mean": None, "variance": None},
        {"n": 1.0, "variance": None},
        {"n": 1.0, "variance": None, "d_mean": 3.0},
        {"variance": 0.0},
        {**RATIO, "cov": 2.0},  # perfectly correlated: sqrt(4) * sqrt(1)
        {**RATIO, "variance": 1e200, "d_var": 1e200, "cov": 1e200},
    ],
)
def test_small_and_extreme_but_possible_moments_are_kept(project, change):
    assert fates(land_rows(project, "a", change)) == (1, 0, 0)


def test_counts_may_be_integers_or_decimals(project):
    integers = SCHEMA | {"n": pl.Int64, "mean": pl.Decimal(12, 3)}
    row = {"n": 7, "mean": 2.5}
    assert fates(land_rows(project, "a", row, schema=integers)) == (1, 0, 0)
    assert landed(project)["mean"].to_list() == [2.5]


def test_repeated_rows_stay_but_a_copied_file_adds_nothing(project):
    assert fates(land_rows(project, "a", {}, {})) == (2, 0, 0)
    folder = project.folder / "incoming" / "moments"
    (folder / "copy.parquet").write_bytes((folder / "a.parquet").read_bytes())
    (file,) = files(land_now(project))
    assert (fates(file), file.reasons) == ((0, 2, 0), {"same_file": 2})
    assert land_now(project).batch is None


def test_a_file_without_a_mapped_column_or_with_text_for_a_number_is_set_aside(project):
    folder = project.folder / "incoming" / "moments"
    table = pl.DataFrame([ROW], schema=SCHEMA)
    table.drop("cov").write_parquet(folder / "a.parquet")
    table.with_columns(n=pl.lit("many")).write_parquet(folder / "b.parquet")
    report = land_now(project)
    assert [file.error for file in files(report)] == [
        "column 'cov' (covariance) is missing",
        "column 'n' (n) is VARCHAR, need a number type",
    ]


def test_csv_with_text_in_a_moment_names_line_and_column(project):
    header = ",".join(FIELDS)
    text = f"{header}\ntrial,control,spend,2026-03-09T00:00:00Z,10,1,2,,,\n"
    folder = project.folder / "incoming" / "moments"
    (folder / "a.csv").write_text(text)
    (folder / "b.csv").write_text(text.replace(",1,2,", ",1,n/a,"))
    first, second = files(land_now(project))
    assert (fates(first), first.error) == ((1, 0, 0), None)
    assert second.error == "line 2: column 'variance' is not a DOUBLE"


def test_one_file_per_experiment_and_metric_names_both_in_the_configuration(tmp_path):
    platform = PLATFORM.replace("          experiment: experiment\n", "").replace(
        "          metric: metric\n", ""
    )
    platform += "        experiment_name: trial\n        metric_name: spend\n"
    project = make_moments_project(tmp_path, platform)
    land_rows(project, "a", {"experiment": "ignored", "metric": "ignored"})
    assert landed(project).select("experiment", "metric").row(0) == ("trial", "spend")


def test_a_naive_time_needs_the_zone_that_the_source_declares(project, tmp_path):
    naive = SCHEMA | {"at": pl.Datetime("us")}
    row = {"at": dt.datetime(2026, 3, 9)}
    assert "has no time zone" in land_rows(project, "a", row, schema=naive).error
    zoned = make_moments_project(tmp_path / "zoned", PLATFORM + "        timezone: Europe/Berlin\n")
    land_rows(zoned, "a", row, schema=naive)
    assert landed(zoned)["occurred_at"].to_list() == [dt.datetime(2026, 3, 8, 23)]


NUMBER = st.sampled_from([None, -1.0, 0.0, 0.5, 1.0, 2.0, 1e300, math.nan, math.inf])
NAME = st.sampled_from([None, "", "spend"])


@settings(max_examples=25)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "metric": NAME,
                "at": st.sampled_from([None, T, utc(1990, 1, 1)]),
                **dict.fromkeys(FIELDS[4:], NUMBER),
            }
        ),
        min_size=1,
        max_size=12,
    )
)
def test_every_row_has_exactly_one_fate(rows, tmp_path_factory):
    project = make_moments_project(tmp_path_factory.mktemp("fates"))
    file = land_rows(project, "a", *rows)
    assert file.error is None
    assert sum(fates(file)) == file.rows_in == len(rows)
    assert sum(file.reasons.values()) == file.quarantined
    if file.kept:
        kept = landed(project)
        assert kept["n"].null_count() == 0
        assert kept.select(pl.col(pl.Float64).is_finite().all()).row(0) == (True,) * 5

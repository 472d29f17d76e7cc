"""The verbs for units by periods: every way to say who is treated, files, refusals, exit codes."""

import json
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from experiments_dagster.cli.causal import donors, panels

SHARED = Path(__file__).parents[3] / "shared" / "data" / "timeseries"
CARD_KRUEGER = SHARED / "card_krueger_njmin3.csv"
PUBLISHED = 1e-5  # digits of the case
WAYS = {
    "group": ("--group-col", "g", "--starts", "1994"),
    "units": ("--treated-units", ",".join(f"s{i}" for i in range(20)), "--starts", "1994"),
    "indicator": ("--is-treated-col", "d"),
    "first": ("--first-treated-col", "f"),
}
COLUMNS = ("--unit-col", "shop", "--time-col", "year", "--y", "sales")


def run(*arguments, code=0):
    app = typer.Typer()
    panels.register(app)
    donors.register(app)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def load(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def shops(*, effect=6.0, start=1994, n=50):
    rng = np.random.default_rng(1)
    year = np.arange(1990, 1998)
    level, common = rng.normal(size=n), rng.normal(size=8)
    treated = np.arange(n) < 20
    since = treated[:, None] & (year >= start)
    sales = 20 + level[:, None] + common + rng.normal(size=(n, 8)) + effect * since
    return pl.DataFrame(
        {
            "shop": np.repeat([f"s{i}" for i in range(n)], 8),
            "year": np.tile(year, n),
            "sales": sales.ravel(),
            "g": np.repeat(treated.astype(int), 8),
            "d": since.ravel().astype(int),
            "f": np.repeat(np.where(treated, start, 0), 8),
            "size": np.repeat(rng.normal(size=n), 8),
        }
    )


@pytest.fixture
def panel(tmp_path):
    path = tmp_path / "shops.csv"
    shops().write_csv(path)
    return path


@pytest.mark.skipif(not SHARED.exists(), reason=f"no reference data at {SHARED}")
def test_card_and_krueger():
    flags = ("--group-col", "nj", "--time-col", "d", "--y", "fte", "--starts", "1")
    document = load(run("did", "--input", CARD_KRUEGER, *flags, "--json").stdout)
    study = document["estimates"]
    main = study["estimates"][0]
    assert main["estimate"] == pytest.approx(2.753605783, rel=PUBLISHED)
    assert main["std_error"] == pytest.approx(1.79545081, rel=PUBLISHED)
    assert study["tables"]["standard_errors"][-1]["formula"] == "ols"
    ols = study["tables"]["standard_errors"][-1]["std_error"]
    assert ols == pytest.approx(1.688409131, rel=PUBLISHED)
    cells = study["tables"]["cells"]
    assert sum(row["rows_before"] + row["rows_after"] for row in cells[:2]) == 794
    assert study["claim"]["status"] == "WEAK"
    assert "26 rows left out: fte is missing" in document["warnings"]


@pytest.mark.parametrize("verb", ["did", "event-study", "staggered"])
def test_every_way_to_say_who_is_treated_gives_the_same(panel, verb):
    found = [
        load(run(verb, "--input", panel, *COLUMNS, *flags, "--json").stdout)["estimates"]
        for flags in WAYS.values()
    ]
    assert all(study == found[0] for study in found)
    main = found[0]["estimates"][0]
    assert abs(main["estimate"] - 6) < 4 * main["std_error"]
    assert found[0]["status"] == "ok"


def test_dates_are_periods_too(tmp_path):
    path = tmp_path / "shops.parquet"
    shops().with_columns(pl.date(pl.col("year"), 1, 1).alias("year")).write_parquet(path)
    flags = ("--group-col", "g", "--starts", "1994-01-01")
    study = load(run("event-study", "--input", path, *COLUMNS, *flags, "--json").stdout)
    assert study["estimates"]["facts"]["start"] == "1994-01-01, 4 periods before it"


def test_a_folder_holds_report_tables_and_pictures(panel, tmp_path):
    out = tmp_path / "out"
    flags = (*COLUMNS, *WAYS["group"], "--covariates", "size")
    result = run("event-study", "--input", panel, *flags, "--out", out)
    assert "event study" in result.stdout
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"results.json", "report.html", "tables/period_effects.csv"} <= names
    assert any(name.startswith("plots/event_study") for name in names)
    study = load((out / "results.json").read_text())["estimates"]
    assert [row["name"] for row in study["estimates"]] == ["average effect", "with covariates"]


def test_seed_and_level_reach_the_study(panel):
    flags = (*COLUMNS, *WAYS["first"], "--json")
    one, same, other = (
        load(run("staggered", "--input", panel, *flags, "--seed", seed).stdout)["estimates"]
        for seed in (1, 1, 2)
    )
    assert one == same
    bands = [study["tables"]["dynamic_effects"][0]["band_low"] for study in (one, other)]
    assert bands[0] != bands[1]
    wide = load(run("did", "--input", panel, *flags, "--alpha", "0.01").stdout)["estimates"]
    assert wide["estimates"][0]["confidence_level"] == 0.99


def test_all_treated_units_need_the_other_controls(tmp_path):
    path = tmp_path / "shops.csv"
    rows = shops()
    starts = 1993 + rows["shop"].str.slice(1).cast(int) % 3
    rows.with_columns(starts.alias("f")).write_csv(path)
    flags = (*COLUMNS, "--first-treated-col", "f")
    result = run("staggered", "--input", path, *flags, "--json", code=5)
    study = load(result.stdout)["estimates"]
    assert (study["status"], study["reason"]) == ("not_estimable", "EMPTY_ARM")
    assert study["claim"]["status"] == "NOT_ESTIMABLE"
    found = load(
        run("staggered", "--input", path, *flags, "--control", "not_yet_treated", "--json").stdout
    )
    assert found["estimates"]["status"] == "ok"
    # Different starts are refused by the designs for one.
    assert "use the design staggered" in run("did", "--input", path, *flags, code=5).output


def test_units_that_turn_untreated_again_are_an_error(tmp_path):
    path = tmp_path / "shops.csv"
    back = (pl.col("shop") == "s3") & (pl.col("year") == 1997)
    shops().with_columns(pl.when(back).then(0).otherwise("d").alias("d")).write_csv(path)
    result = run("staggered", "--input", path, *COLUMNS, "--is-treated-col", "d", code=2)
    assert "1 units are no longer treated after they were" in result.output


def test_a_unit_with_two_rows_in_a_period_is_an_error(tmp_path):
    path = tmp_path / "shops.csv"
    rows = shops()
    pl.concat([rows, rows.head(1)]).write_csv(path)
    for verb in ("did", "event-study", "staggered"):
        result = run(verb, "--input", path, *COLUMNS, *WAYS["group"], code=2)
        assert "1 row" in result.output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "exactly one of --group-col, --treated-units"),
        ((*WAYS["group"], *WAYS["first"]), "got --group-col, --first-treated-col"),
        (("--group-col", "g"), "--group-col needs --starts"),
        ((*WAYS["indicator"], "--starts", "1994"), "leave out --starts"),
        (("--group-col", "g", "--starts", "spring"), "--starts 'spring'"),
        (("--group-col", "g", "--starts", "2020"), "must lie inside"),
        (("--group-col", "size", "--starts", "1994"), "neither 0 nor 1"),
        (("--treated-units", "s1,x9", "--starts", "1994"), "no unit 'x9'"),
        ((*WAYS["group"], "--covariates", "length"), "length"),
        ((*WAYS["group"], "--alpha", "2"), "--alpha 2.0"),
    ],
)
def test_wrong_flags_name_themselves(panel, flags, words):
    assert words in run("event-study", "--input", panel, *COLUMNS, *flags, code=2).output


def test_only_a_group_does_without_units(panel):
    columns = ("--time-col", "year", "--y", "sales")
    result = run("did", "--input", panel, *columns, *WAYS["first"], code=2)
    assert "--first-treated-col needs --unit-col" in result.output
    assert "--unit-col" in run("event-study", "--input", panel, *columns, code=2).output
    result = run(
        "staggered", "--input", panel, *COLUMNS, *WAYS["first"], "--control", "all", code=2
    )
    assert "--control 'all'" in result.output


@pytest.mark.parametrize("verb", ["did", "event-study", "staggered"])
def test_periods_and_units_to_read(panel, tmp_path, verb):
    flags = (*COLUMNS, *WAYS["group"], "--json")
    narrow = (
        *(verb, "--input", panel, *flags),
        *("--first", 1991, "--last", 1996, "--exclude-units", "s0,s30"),
    )
    found = load(run(*narrow).stdout)["estimates"]
    assert found["facts"]["periods"] == "6, from 1991 to 1996"
    assert found["facts"]["units"] == "19 treated, 29 untreated"
    path = tmp_path / "cut.csv"
    inside = pl.col("year").is_between(1991, 1996) & ~pl.col("shop").is_in(["s0", "s30"])
    shops().filter(inside).write_csv(path)
    cut = load(run(verb, "--input", path, *flags).stdout)["estimates"]
    assert found["estimates"] == cut["estimates"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--first", "spring"), "--first 'spring'"),
        (("--last", "1996-01-01"), "holds whole numbers, but last is 1996-01-01"),
        (("--exclude-units", "x9"), "no unit 'x9'"),
    ],
)
def test_wrong_periods_and_units_name_themselves(panel, flags, words):
    result = run("did", "--input", panel, *COLUMNS, *WAYS["group"], *flags, code=2)
    assert words in " ".join(result.output.split())


def test_units_to_exclude_need_a_column(panel):
    columns = ("--time-col", "year", "--y", "sales", *WAYS["group"])
    result = run("did", "--input", panel, *columns, "--exclude-units", "s1", code=2)
    assert "--exclude-units needs --unit-col" in result.output


ONE = ("--treated-units", "s0", "--starts", "1994", "--exclude-units", "s1,s2")


def test_the_command_in_a_report_gives_the_same_numbers(panel, tmp_path):
    """An option that stands several times, words with spaces, and a flag without a value."""
    path = tmp_path / "two words.csv"
    shops().write_csv(path)
    out = tmp_path / "out"
    flags = (*COLUMNS, *ONE, "--predictor", "size@1990:1992", "--predictor", "sales@1993")
    run("synthetic-control", "--input", path, *flags, "--random-starts", 0, "--out", out)
    report = (out / "study.md").read_text()
    line = next(
        line for line in report.splitlines() if line.strip().startswith("experiments synthetic")
    )
    assert line.count("--predictor") == 2
    again = run(*shlex.split(line)[1:], "--json")
    assert load(again.stdout)["estimates"] == load((out / "results.json").read_text())["estimates"]


@pytest.mark.parametrize(
    ("predictor", "words"),
    [
        ("size@1991-01-01", "predictor size: period 1991-01-01 is a date, the panel has whole"),
        ("size@1993:1991", "first period 1993 is after the last, 1991"),
        ("size@1890", "no period from 1890 to 1890"),
        ("size", "--predictor 'size': must be COLUMN@FIRST"),
    ],
)
def test_wrong_periods_of_a_predictor_name_themselves(panel, predictor, words):
    result = run(
        *("synthetic-control", "--input", panel, *COLUMNS, *ONE), "--predictor", predictor, code=2
    )
    assert words in " ".join(result.output.split())


def test_a_donor_panel_with_two_rows_in_a_period_is_an_error(tmp_path):
    path = tmp_path / "shops.csv"
    rows = shops()
    pl.concat([rows, rows.head(1).with_columns(sales=pl.lit(99.0))]).write_csv(path)
    result = run("synthetic-control", "--input", path, *COLUMNS, *ONE, code=2)
    assert "1 row" in result.output

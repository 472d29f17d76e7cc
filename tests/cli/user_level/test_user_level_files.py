"""`validate --input`, `audit`, `run --config`: rules over rows, masked examples, YAML files."""

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from factories import make_project
from user_level_runs import RATIOS, USERS, bundle, invoke, load, refused, run, write

from experiments_dagster.cli.user_level.audit import masked

SERIES = "date,y\n2026-01-01,1\n2026-01-02,2\n2026-01-03,3\n"


@pytest.fixture
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def broken_rules(tmp_path, text, schema, *flags):
    file = write(tmp_path / "data.csv", text)
    target = tmp_path / "r.json"
    result = invoke("validate", "--input", file, "--schema", schema, *flags, "--out-json", target)
    results = load(target.read_text())
    found = results["diagnostics"]
    rows = [("missing_required", name) for name in found["missing_required"]]
    rows += [(row["rule"], row["column"]) for row in found["violations"]]
    assert results["estimates"]["ok"] == (not rows)
    assert result.exit_code == (2 if rows else 0), result.output
    return rows


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        (USERS, "b2c_user_level"),
        (RATIOS, "b2c_ratio"),
        (RATIOS, "b2c_user_level"),
        (SERIES, "timeseries_causal_impact"),
        ("date,y,segment\n2026-01-01,1,a\n2026-01-02,2,\n", "timeseries_causal_impact"),
    ],
)
def test_a_fine_file_breaks_no_rule(tmp_path, text, schema):
    assert broken_rules(tmp_path, text, schema) == []


@pytest.mark.parametrize(
    ("text", "schema", "wanted"),
    [
        (
            "group,revenue\ncontrol,1\ntest,2\n",
            "b2c_user_level",
            ("missing_required", "revenue_pre"),
        ),
        (USERS.replace("3.1", "three"), "b2c_user_level", ("dtype", "revenue")),
        (USERS.replace("3.1", "inf"), "b2c_user_level", ("dtype", "revenue")),
        (USERS.replace("test", "treated"), "b2c_user_level", ("allowed_groups", "group")),
        (USERS.replace("test", "control"), "b2c_user_level", ("allowed_groups", "group")),
        (
            USERS.replace("3.1,2.7", "3.1,"),
            "b2c_user_level",
            ("no_missing_required", "revenue_pre"),
        ),
        (RATIOS.replace("20,8.0", "-20,8.0"), "b2c_ratio", ("not_negative", "sessions")),
        (SERIES + "2026-01-03,4\n", "timeseries_causal_impact", ("date_unique", "date")),
        (SERIES + "2025-12-31,4\n", "timeseries_causal_impact", ("sorted_by_date", "date")),
        (SERIES + "2026-02-30,4\n", "timeseries_causal_impact", ("dtype", "date")),
        (SERIES + "2026-01-04,\n", "timeseries_causal_impact", ("no_missing_required", "y")),
        (
            "date,y,sessions\n2026-01-01,1,many\n",
            "timeseries_causal_impact",
            ("dtype", "sessions"),
        ),
    ],
)
def test_each_rule_is_checked(tmp_path, text, schema, wanted):
    assert wanted in broken_rules(tmp_path, text, schema)


def test_other_names_of_arms_can_be_allowed(tmp_path):
    text = USERS.replace("test", "blue")
    assert broken_rules(tmp_path, text, "b2c_user_level", "--groups", "control,blue") == []


def test_an_unknown_schema_is_a_warning(tmp_path):
    file = write(tmp_path / "data.csv", USERS)
    found = bundle(tmp_path / "out", "validate", "--input", file, "--schema", "b2b")
    assert "unknown schema 'b2b'" in found["warnings"][0]
    assert found["diagnostics"]["n_rows"] == 10
    assert found["diagnostics"]["n_cols"] == 3


def test_a_violation_says_where_and_how_often(tmp_path):
    file = write(tmp_path / "data.csv", SERIES + "2026-01-03,4\n2026-01-03,5\n")
    schema = ("--schema", "timeseries_causal_impact")
    found = bundle(tmp_path / "out", "validate", "--input", file, *schema, code=2)
    (row,) = found["diagnostics"]["violations"]
    assert (row["n_rows"], row["first_row"]) == (2, 4)
    with (tmp_path / "out" / "tables" / "schema_violations.csv").open() as lines:
        assert next(csv.DictReader(lines))["rule"] == "date_unique"
    with (tmp_path / "out" / "tables" / "schema_expected.csv").open() as lines:
        expected = {row["column"]: row for row in csv.DictReader(lines)}
    assert expected["date"]["required"] == "True"
    assert expected["segment"]["required"] == "False"


def test_parquet_files_are_validated_too(tmp_path):
    file = tmp_path / "data.parquet"
    pl.DataFrame(
        {"date": pl.date_range(pl.date(2026, 1, 1), pl.date(2026, 1, 5), eager=True), "y": range(5)}
    ).write_parquet(file)
    found = bundle(
        tmp_path / "out",
        *("validate", "--input", file, "--schema", "timeseries_causal_impact"),
    )
    assert found["estimates"]["ok"] is True


def test_a_value_that_is_no_number_is_missing(tmp_path):
    file = tmp_path / "data.parquet"
    columns = {"group": ["control", "test"], "revenue": [1.0, float("nan")]}
    pl.DataFrame({"user_id": ["a", "b"], **columns, "revenue_pre": [1.0, 2.0]}).write_parquet(file)
    found = bundle(tmp_path / "out", "validate", "--input", file, code=2)
    (row,) = found["diagnostics"]["violations"]
    assert (row["rule"], row["column"], row["n_rows"], row["first_row"]) == (
        "no_missing_required",
        "revenue",
        1,
        2,
    )


def test_without_a_file_the_configuration_is_validated(tmp_path):
    make_project(tmp_path)
    assert run("validate", "--config-dir", tmp_path).stdout.startswith("fine:")


AUDITED = (
    "user_id,email,variant,sessions,clicks,spend\n"
    + "".join(
        f"id-{k:03d},p{k}@mail.org,{'ab'[k % 5 == 0]},{k % 3},{k},{k / 7}\n" for k in range(59)
    )
    + "id-001,p1@mail.org,a,-1,x,2\n"
)


def audit(tmp_path, text, *flags):
    file = write(tmp_path / "data.csv", text)
    folder = tmp_path / "out"
    results = bundle(folder, "audit", "--input", file, *flags)
    return results, load((folder / "audit.json").read_text()), folder


def test_the_audit_finds_what_is_wrong(tmp_path):
    results, found, folder = audit(tmp_path, AUDITED, "--schema", "b2c_ratio")
    detected = found["detected"]
    assert (detected["group_col"], detected["user_id_col"]) == ("variant", "user_id")
    assert detected["denominator_like_cols"] == ["sessions", "clicks"]
    checks = found["checks"]
    assert checks["duplicate_ids"] == 1
    assert checks["zero_denominator_share"]["sessions"] == pytest.approx(20 / 60)
    assert checks["negative_denominator_share"] == {"sessions": pytest.approx(1 / 60)}
    assert checks["non_numeric_denominator_share"] == {"clicks": pytest.approx(1 / 60)}
    assert checks["group_size_ratio"] == pytest.approx(48 / 12)
    # No 10-point rule: the sample ratio is tested, and blocks.
    assert checks["srm"]["verdict"] == "block"
    assert checks["srm"]["chi2"] == pytest.approx((48 - 12) ** 2 / 60)
    assert any("sample ratio" in text for text in found["errors"])
    assert results["warnings"] == [*found["errors"], *found["warnings"]]
    balance = (folder / "tables" / "audit_group_balance.csv").read_text()
    assert balance == "variant,n,share\na,48,0.8\nb,12,0.2\n"


def test_no_id_stands_in_an_audit(tmp_path):
    _, _, folder = audit(tmp_path, AUDITED)
    for file in folder.rglob("*.*"):
        text = file.read_text()
        assert "id-0" not in text, file
        assert "@mail.org" not in text, file
    with (folder / "tables" / "audit_column_profile.csv").open() as lines:
        profile = {row["column"]: row for row in csv.DictReader(lines)}
    assert profile["user_id"]["example"] == "xx-000"
    assert profile["email"]["example"] == "x0@xxxx.xxx"
    assert profile["variant"]["example"] == "b"
    assert list(profile["spend"]) == [
        *("column", "dtype", "n_rows", "n_missing", "missing_share", "n_unique", "example")
    ]
    assert masked("Ann_7") == "xxx_0"


def test_the_numeric_summary_has_the_quantiles(tmp_path):
    _, _, folder = audit(tmp_path, AUDITED)
    with (folder / "tables" / "audit_numeric_summary.csv").open() as lines:
        summary = {row["column"]: row for row in csv.DictReader(lines)}
    spend = np.array([*(k / 7 for k in range(59)), 2])
    row = summary["spend"]
    assert float(row["1%"]) == pytest.approx(np.quantile(spend, 0.01))
    assert float(row["99%"]) == pytest.approx(np.quantile(spend, 0.99))
    assert float(row["std"]) == pytest.approx(spend.std(ddof=1))


def test_the_audit_follows_given_shares_and_names(tmp_path):
    flags = ("--shares", "a=0.8,b=0.2", "--group-col", "variant", "--unit-col", "email")
    _, found, _ = audit(tmp_path, AUDITED, *flags)
    assert found["checks"]["srm"]["verdict"] == "ok"
    assert found["detected"]["user_id_col"] == "email"
    assert not any("largest arm" in text for text in found["warnings"])
    file = tmp_path / "data.csv"
    assert "--group-col nope" in refused("audit", "--input", file, "--group-col", "nope")


def test_the_audit_of_other_files(tmp_path):
    _, found, _ = audit(tmp_path, SERIES, "--schema", "timeseries_causal_impact")
    assert found["detected"]["group_col"] is None
    _, one, _ = audit(tmp_path, "group,y\ncontrol,1\ncontrol,2\n", "--schema", "other")
    assert any("fewer than 2 arms" in text for text in one["errors"])
    assert any("unknown schema 'other'" in text for text in one["warnings"])


def test_an_audit_names_a_column_that_is_not_there(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("group,y\ncontrol,1\ntest,2\n")
    for flag in ("--group-col", "--unit-col", "--timestamp-col"):
        result = run("audit", "--input", file, "--max-n", "10", flag, "nope", code=2)
        assert f"{flag} nope: " in result.stderr


def test_the_audit_of_a_schedule(tmp_path):
    flags = ("--looks", "4,8,10,50", "--min-n-per-group", "2")
    _, found, folder = audit(tmp_path, USERS, *flags)
    assert found["detected"]["resolved_looks"] == [4, 8, 10]
    assert any("wait for more data: 50" in text for text in found["warnings"])
    table = (folder / "tables" / "audit_schedule_sanity.csv").read_text()
    assert table.splitlines()[:3] == [
        "look_n,n_control_prefix,n_test_prefix,min_n_per_group,ok_min_n",
        "4,4,0,2,False",
        "8,5,3,2,True",
    ]


def config(tmp_path, text):
    write(tmp_path / "users.csv", USERS)
    return write(tmp_path / "run.yaml", text)


@pytest.mark.usefixtures("_in_tmp")
@pytest.mark.parametrize("style", ["winsor_q", "winsor-q"])
def test_a_file_stands_for_a_command_line(tmp_path, style):
    text = (
        "command: cuped\ninput: users.csv\nout: by_file\naudit: true\n"
        f"params: {{y: revenue, x: revenue_pre, alpha: 1e-1, transform: winsor, {style}: 0.9}}\n"
    )
    run("run", "--config", config(tmp_path, text))
    flags = ("--alpha", "0.1", "--transform", "winsor", "--winsor-q", "0.9", "--audit")
    run(
        "cuped",
        "--input",
        "users.csv",
        "--y",
        "revenue",
        "--x",
        "revenue_pre",
        *flags,
        "--out",
        "o",
    )
    for name in ("results.json", "report.md", "audit.json"):
        assert Path("by_file", name).read_text() == Path("o", name).read_text()


@pytest.mark.usefixtures("_in_tmp")
def test_lists_schemas_and_exit_codes_pass_through(tmp_path):
    looks = (
        "command: sequential_mean\ninput: users.csv\nout: o\nparams: {y: revenue, looks: [4, 10]}\n"
    )
    run("run", "--config", config(tmp_path, looks))
    assert load(Path("o", "results.json").read_text())["diagnostics"]["planned_looks"] == [4, 10]
    schema = "command: validate\ninput: users.csv\nout: v\nschema: b2c_ratio\n"
    run("run", "--config", config(tmp_path, schema), code=2)
    params = "command: validate\ninput: users.csv\nout: v\nparams: {schema: b2c_user_level}\n"
    run("run", "--config", config(tmp_path, params))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("input: users.csv\n", "command: must be one of"),
        ("command: cupedd\ninput: users.csv\n", "'cupedd'"),
        ("command: cuped\n", "cuped reads a file"),
        ("command: cuped\ninput: users.csv\nparms: {y: a}\n", "Did you mean params?"),
        ("command: cuped\ninput: users.csv\nparams: [y]\n", "must be a mapping"),
        ("command: cuped\ninput: users.csv\naudit: yes please\n", "true or false"),
        (
            "command: cuped\ninput: users.csv\nparams:\n  y: a\n  x: b\n  winsor_p: 0.9\n",
            "run.yaml:6: params.winsor_p: cuped has no flag --winsor-p",
        ),
        ("command: cuped\ninput: users.csv\nparams: {y: a, x.y: b}\n", "run.yaml:3: params.x.y:"),
        (
            "command: cuped\ninput: users.csv\nschema: b2c_ratio\n",
            "run.yaml:3: schema: cuped takes",
        ),
        ("command: cuped\ninput: users.csv\nparams: {y: a, winsor_q: 1, winsor-q: 2}\n", "twice"),
        ("command: cuped\ninput: users.csv\nparams: {y: revenue, x: nope}\n", "--x nope"),
        ("command: [cuped\n", "run.yaml"),
    ],
)
@pytest.mark.usefixtures("_in_tmp")
def test_a_mistake_in_a_file_is_named(tmp_path, text, said):
    result = run("run", "--config", config(tmp_path, text), code=2)
    assert said in result.stderr


@pytest.mark.usefixtures("_in_tmp")
@pytest.mark.parametrize("command", ["audit", "validate", "cuped", "sequential-simulate"])
def test_audit_is_true_of_every_command(tmp_path, command):
    more = {
        "cuped": "input: users.csv\nparams: {y: revenue, x: revenue_pre}\n",
        "sequential-simulate": "params: {n: 400, looks: [400]}\n",
    }.get(command, "input: users.csv\n")
    text = f"command: {command}\nout: o\naudit: true\n{more}"
    run("run", "--config", config(tmp_path, text))
    assert Path("o", "audit.json").exists()


@pytest.mark.usefixtures("_in_tmp")
def test_flags_beside_a_file(tmp_path):
    text = "command: cuped\ninput: users.csv\nout: o\nparams: {y: revenue, x: revenue_pre}\n"
    file = config(tmp_path, text)
    printed = load(run("run", "--config", file, "--json").stdout)
    assert printed["command"] == "cuped"
    assert "SLUG" in run("run", "checkout", "--config", file, code=2).stderr


def test_a_missing_configuration_file_is_named(tmp_path):
    assert "cannot be read" in run("run", "--config", tmp_path / "no.yaml", code=2).stderr

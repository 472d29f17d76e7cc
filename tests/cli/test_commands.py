"""Commands as people type them: output, JSON keys, exit codes."""

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest
from shop_factory import shop_project
from typer.testing import CliRunner

from experiments_dagster.cli import app

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="shared/ is not beside the checkout")


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def run_json(*arguments, code=0):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(run(*arguments, "--json", code=code).stdout, parse_constant=refuse)


def expected(area, case):
    cases = json.loads((SHARED / area / "expected.json").read_text())
    return next(item for item in cases if item["case"] == case)


@needs_shared
@pytest.mark.parametrize(
    ("case", "design"),
    [
        ("bounds_ldof_K5_2s05", "lan_demets_obrien_fleming"),
        ("bounds_ldp_K5_2s05", "lan_demets_pocock"),
        ("bounds_ldof_uneq_2s05", "lan_demets_obrien_fleming"),
        ("bounds_pocock_K3", "pocock"),
        ("bounds_obf_K4", "obrien_fleming"),
    ],
)
def test_boundaries_agree_with_the_published(case, design):
    wanted = expected("sequential", case)
    information = ",".join(str(t) for t in wanted["spec"]["info"])
    found = run_json("boundaries", "--design", design, "--information", information)
    tolerance = wanted["tolerance"]["abs"]
    for key in ("critical_values", "cumulative_alpha"):
        assert found[key] == pytest.approx(wanted["expected"][key], abs=tolerance)


def test_boundaries_refuse_nonsense_with_the_value_named():
    design = ("--design", "pocock", "--information")
    assert "'0.5,x'" in run("boundaries", *design, "0.5,x", code=2).stderr
    assert "0.4" in run("boundaries", *design, "0.5,0.4", code=2).stderr
    assert (
        "nonsense" in run("boundaries", "--design", "nonsense", "--information", "1", code=2).stderr
    )


@needs_shared
def test_compare_agrees_with_the_reference_cases():
    cookies = expected("fixed", "cookie_cats")["expected"]
    common = ("--input", SHARED / "fixed" / "cookie_cats.parquet")
    arms = ("--group-col", "version", "--control", "gate_30")
    welch = run_json("compare", *common, *arms, "--value", "sum_gamerounds")["estimates"]
    wanted = cookies["welch_sum_gamerounds"]
    difference, relative = welch
    assert difference["treatment"] == "gate_40"
    for ours, theirs in (("estimate", "diff"), ("std_error", "se"), ("p_value", "p")):
        assert difference[ours] == pytest.approx(wanted[theirs], rel=1e-6)
    assert relative["std_error"] == pytest.approx(
        cookies["rel_lift_sum_gamerounds"]["se_delta"], rel=1e-6
    )
    ratio = run_json(
        *("compare", *common, *arms, "--kind", "ratio"),
        *("--numerator", "sum_gamerounds", "--denominator", "retention_1"),
    )["estimates"][0]
    wanted = cookies["ratio_sum_gamerounds_per_retention_1"]
    assert ratio["std_error"] == pytest.approx(wanted["se_delta"], rel=1e-6)
    pooled = run_json("compare", *common, *arms, "--kind", "proportion", "--value", "retention_7")
    assert pooled["estimates"][0]["p_value"] == pytest.approx(
        cookies["prop_retention_7"]["p"], rel=1e-6
    )


@needs_shared
def test_compare_by_lin_agrees_with_the_reference_case():
    wanted = expected("fixed", "nsw_experimental")["expected"]["cuped_re78_by_re75"]
    found = run_json(
        *("compare", "--input", SHARED / "observational" / "nsw_mixtape.csv"),
        *("--group-col", "treat", "--control", "0", "--value", "re78", "--covariates", "re75"),
    )["estimates"][0]
    assert found["method"] == "lin"
    assert found["estimate"] == pytest.approx(wanted["lin_coef"], rel=1e-6)
    assert found["std_error"] == pytest.approx(wanted["lin_se_hc2"], rel=1e-6)


def test_compare_names_what_does_not_fit(tmp_path):
    path = tmp_path / "units.csv"
    path.write_text("arm,y\na,1\na,2\nb,3\nb,\n")
    base = ("compare", "--input", path, "--group-col", "arm", "--control")
    assert "column 'z' is missing" in run(*base, "a", "--value", "z", code=2).stderr
    assert "no unit in arm 'c'" in run(*base, "c", "--value", "y", code=2).stderr
    assert "1 missing values" in run(*base, "a", "--value", "y", code=2).stderr
    assert "--numerator" in run(*base, "a", "--value", "y", "--kind", "ratio", code=2).stderr
    constant = tmp_path / "constant.csv"
    constant.write_text("arm,y\na,1\na,1\nb,1\nb,1\n")
    flags = ("--input", constant, "--group-col", "arm", "--control", "a", "--value", "y")
    rows = json.loads(run("compare", *flags, "--json", code=5).stdout)["estimates"]
    assert rows[0]["status"] == "not_estimable"
    assert rows[0]["reason"] == "ZERO_VARIANCE"


@pytest.mark.parametrize(
    ("unit", "experiment", "salt", "ratio"),
    [
        ("user_001", "1", "", 0.040838210307),
        ("u1", "checkout", "s1", 0.485327776293),
        ("ü-𝒳", "exp", "s", 0.440977290190),
    ],
)
def test_assign_keeps_the_old_vectors(unit, experiment, salt, ratio):
    found = run_json(
        *("assign", "--experiment", experiment, "--units", unit, "--salt", salt),
        *("--scheme", "incrementality"),
    )["assignments"]
    assert found == [
        {
            "unit": unit,
            "variant": "treatment" if ratio < 0.5 else "control",
            "bucket": pytest.approx(ratio, abs=1e-12),
        }
    ]


def test_validate_names_file_line_path_and_rule(tmp_path):
    shop_project(tmp_path, n_users=4)
    path = tmp_path / "configs" / "experiments" / "trial.yaml"
    assert "fine" in run("validate", "--config-dir", tmp_path).stdout
    path.write_text(
        path.read_text().replace("primary: {metric: orders", "primary: {metric: ordres")
    )
    result = run("validate", "--config-dir", tmp_path / "configs", code=2)
    text = " ".join(result.stderr.split())
    assert "trial.yaml:9: metrics.primary.metric: unknown metric 'ordres'" in text
    document = run_json("validate", "--config-dir", tmp_path, code=2)
    assert document["issues"][0]["line"] == 9


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project after `experiments run`."""
    folder = tmp_path_factory.mktemp("finished")
    shop_project(folder, effects={"trial": 0.3, "null": 0.0})
    run("run", "--as-of", "2026-03-23", "--config-dir", folder)
    run("run", "--as-of", "2026-04-06", "--config-dir", folder)
    return folder


def test_status_has_its_keys(finished):
    document = run_json("status", "--config-dir", finished)
    rows = {row["slug"]: row for row in document["experiments"]}
    assert set(rows) == {"trial", "null"}
    wanted = {"slug", "state", "verdict", "reason", "looks", "information_fraction", "metrics"}
    assert wanted <= set(rows["trial"])
    assert rows["trial"]["verdict"] == "SHIP"
    assert rows["trial"]["state"] == "complete"
    assert rows["trial"]["looks"] == 2
    assert {"estimate", "std_error", "ci_low", "ci_high"} <= set(rows["trial"]["metrics"][0])
    one = run_json("status", "null", "--config-dir", finished)
    assert [row["slug"] for row in one["experiments"]] == ["null"]
    assert (
        "unknown experiment or intervention 'nobody'"
        in run("status", "nobody", "--config-dir", finished, code=2).stderr
    )


def test_running_again_changes_nothing(finished):
    before = {path: path.read_bytes() for path in (finished / "store" / "ledger").rglob("*.json")}
    run("run", "--as-of", "2026-04-06", "--config-dir", finished)
    assert before == {
        path: path.read_bytes() for path in (finished / "store" / "ledger").rglob("*.json")
    }


def test_the_ledger_spends_no_more_than_alpha(finished):
    document = run_json("ledger", "trial", "--config-dir", finished)
    assert document["looks"] == 2
    spent = [row["alpha_spent"] for row in document["rows"] if row["kind"] == "success"]
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(0.05)
    assert "success orders" in run("ledger", "trial", "--config-dir", finished).stdout


def test_reproduce_prints_equal_numbers(finished):
    document = run_json("reproduce", "trial.1.1", "--config-dir", finished)
    assert document["equal"] is True
    assert document["numbers_compared"] > 100
    assert [row["estimate"] for row in document["seen"]] == [
        row["estimate"] for row in document["again"]
    ]
    assert "not a look id" in run("reproduce", "trial", "--config-dir", finished, code=2).stderr
    assert "no such look" in run("reproduce", "trial.1.9", "--config-dir", finished, code=2).stderr


def test_export_is_self_contained(finished, tmp_path):
    target = tmp_path / "all.duckdb"
    run("export", target, "--config-dir", finished)
    with duckdb.connect(str(target), read_only=True) as connection:
        tables = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
        assert {"effect_estimates", "boundaries", "verdicts", "user_frame_trial"} <= tables
        count = connection.execute("SELECT count(*) FROM effect_estimates").fetchall()[0][0]
        assert count > 0
    assert "exists already" in run("export", target, "--config-dir", finished, code=2).stderr


def csv_of(path):
    return pl.read_csv(path, infer_schema_length=None)


def test_csv_files_hold_the_tables_of_the_duckdb_file(finished, tmp_path):
    target, folder = tmp_path / "all.duckdb", tmp_path / "csv"
    run("export", target, "--config-dir", finished)
    listed = run("export", "--csv", folder, "--config-dir", finished).stdout.split()
    assert sorted(map(Path, listed)) == sorted(folder.iterdir())
    with duckdb.connect(str(target), read_only=True) as connection:
        tables = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
        assert {path.stem for path in folder.iterdir()} == tables
        assert {"int_experiment_results_primary", "int_experiment_results_secondary"} <= tables
        for name in tables:
            found = csv_of(folder / f"{name}.csv")
            assert found.columns == connection.table(name).columns
            assert found.height == connection.table(name).count("*").fetchall()[0][0]
        # CSV keeps every digit of a number.
        wanted = connection.execute("SELECT estimate FROM effect_estimates").fetchall()
    found = csv_of(folder / "effect_estimates.csv")["estimate"].to_list()
    assert found == [value for (value,) in wanted]


def test_times_in_csv_files_are_iso_and_utc(finished, tmp_path):
    run("export", "--csv", tmp_path, "--config-dir", finished)
    exposed = csv_of(tmp_path / "user_frame_trial.csv")["exposed_at"]
    assert all(dt.datetime.fromisoformat(text).utcoffset() == dt.timedelta(0) for text in exposed)
    frame = duckdb.connect(str(finished / "store" / "experiments.duckdb"), read_only=True)
    with frame:
        times = frame.execute("SELECT epoch_us(exposed_at) FROM user_frame_trial").fetchall()
    origin = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    ours = [
        (dt.datetime.fromisoformat(text) - origin) // dt.timedelta(microseconds=1)
        for text in exposed
    ]
    assert ours == [micros for (micros,) in times]


def test_csv_files_of_one_experiment_hold_nothing_of_the_others(finished, tmp_path):
    listed = run("export", "--csv", tmp_path, "trial", "--config-dir", finished).stdout.split()
    names = {Path(path).name for path in listed}
    assert {Path(path).parent for path in listed} == {tmp_path / "trial"}
    assert {"effect_estimates.csv", "verdicts.csv", "user_frame.csv"} <= names
    assert set(csv_of(tmp_path / "trial" / "effect_estimates.csv")["experiment"]) == {"trial"}
    primary = csv_of(tmp_path / "trial" / "int_experiment_results_primary.csv")
    assert set(primary["metric"]) == {"orders"}
    secondary = csv_of(tmp_path / "trial" / "int_experiment_results_secondary.csv")
    assert dict(secondary.select("metric", "role").unique().iter_rows()) == {
        "order_value": "secondary",
        "converted": "guardrail",
    }
    run("export", "--csv", tmp_path, "null", "--config-dir", finished)


def test_csv_files_never_overwrite(finished, tmp_path):
    kept = tmp_path / "verdicts.csv"
    kept.write_text("mine")
    result = run("export", "--csv", tmp_path, "--config-dir", finished, code=2)
    assert "verdicts.csv exists already" in result.stderr.replace("\n", "")
    assert kept.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [kept]


def test_what_cannot_be_exported_is_named(finished, tmp_path):
    nobody = run("export", "--csv", tmp_path, "nobody", "--config-dir", finished, code=2)
    assert "unknown experiment 'nobody'" in nobody.stderr
    two = run("export", tmp_path / "a.duckdb", "trial", "--config-dir", finished, code=2)
    assert "trial: one FILE only" in two.stderr
    blocked = tmp_path / "file"
    blocked.write_text("")
    wrong = run("export", "--csv", blocked / "in", "--config-dir", finished, code=2)
    assert "cannot be written" in wrong.stderr.replace("\n", " ")
    shop_project(tmp_path / "new", n_users=4)
    empty = run("export", "--csv", tmp_path / "c", "--config-dir", tmp_path / "new", code=2)
    assert "nothing of this project is published yet" in empty.stderr.replace("\n", " ")


def test_the_catalog_shows_published_frames(finished):
    with duckdb.connect(
        str(finished / "store" / "experiments.duckdb"), read_only=True
    ) as connection:
        rows = connection.execute(
            "SELECT arm, count(*) FROM user_frame_trial GROUP BY 1"
        ).fetchall()
    assert {arm for arm, _ in rows} == {"control", "treatment"}


def test_doctor_finds_the_damaged_file_and_nothing_else(finished, tmp_path):
    assert run_json("doctor", "--config-dir", finished)["ok"] is True
    landed = finished / "store" / "landing" / "exposures" / "000001.parquet"
    content = landed.read_bytes()
    landed.write_bytes(content[:-1])
    try:
        findings = run_json("doctor", "--config-dir", finished, code=4)["findings"]
        bad = [finding for finding in findings if not finding["ok"]]
        assert str(landed) in bad[0]["message"]
        assert {finding["subject"] for finding in bad} == {"landed file", "landed files"}
    finally:
        landed.write_bytes(content)


def test_report_prints_its_path(finished):
    path = Path(run("report", "trial", "--config-dir", finished).stdout.strip())
    assert path.read_text().startswith("<!doctype html>")


def test_a_pdf_without_its_library_says_what_to_install(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    before = sorted((finished / "store" / "reports").rglob("*"))
    result = run("report", "trial", "--pdf", "--config-dir", finished, code=2)
    assert "pip install 'experiments-dagster[pdf]'" in result.stderr.replace("\n", " ")
    assert result.stdout == ""
    assert sorted((finished / "store" / "reports").rglob("*")) == before


def test_report_writes_a_pdf_beside_the_page(finished):
    pytest.importorskip("weasyprint", reason="the extra [pdf] is not installed")
    page, printed = run("report", "trial", "--pdf", "--config-dir", finished).stdout.split()
    assert Path(printed) == Path(page).with_suffix(".pdf")
    assert Path(printed).read_bytes().startswith(b"%PDF-")


def own_files(folder):
    """Two Parquet files with names of their own, as a user would have them."""
    rng_days = [dt.datetime(2026, 1, 1) + dt.timedelta(hours=7 * k) for k in range(200)]
    users = [f"u{k:04d}" for k in range(400)]
    exposed = {user: rng_days[60 + k % 60] for k, user in enumerate(users)}
    arms = {user: ("control", "new")[k % 2] for k, user in enumerate(users)}
    events = []
    for k, user in enumerate(users):
        for j in range(6 + (k * 7) % 5):
            when = exposed[user] + dt.timedelta(hours=(j * 37 + k) % 400 - 150)
            events.append((user, when, "purchase", 5.0 + (k * j) % 17))
    events = pl.DataFrame(
        events, schema=["customer_id", "event_time", "event_name", "revenue"], orient="row"
    ).with_columns(event_id=pl.format("e{}", pl.int_range(pl.len())))
    exposures = pl.DataFrame(
        [(user, exposed[user], "Checkout Button", arms[user]) for user in users],
        schema=["customer_id", "first_exposed_at", "experiment_name", "variation"],
        orient="row",
    )
    events.write_parquet(folder / "events.parquet")
    exposures.write_parquet(folder / "exposures.parquet")


def test_from_two_own_files_to_a_verdict(tmp_path):
    own_files(tmp_path)
    project = tmp_path / "mine"
    result = run(
        *("init", project, "--events", tmp_path / "events.parquet"),
        *("--exposures", tmp_path / "exposures.parquet"),
    )
    assert "checkout_button.yaml" in result.stdout.replace("\n", "")
    run("validate", "--config-dir", project)
    run("run", "--config-dir", project)
    row = run_json("status", "--config-dir", project)["experiments"][0]
    assert row["slug"] == "checkout_button"
    assert row["looks"] == 1
    assert row["verdict"] in ("SHIP", "DO_NOT_SHIP", "INCONCLUSIVE")
    assert "never overwrites" in run("init", project, code=2).stderr


def test_init_says_which_column_it_cannot_guess(tmp_path):
    pl.DataFrame({"who": ["a"], "when": [dt.datetime(2026, 1, 1)]}).write_parquet(
        tmp_path / "odd.parquet"
    )
    odd = tmp_path / "odd.parquet"
    result = run("init", tmp_path / "p", "--events", odd, "--exposures", odd, code=2)
    text = " ".join(result.stderr.split())
    assert "cannot guess the unit column among who, when" in text
    assert not (tmp_path / "p" / "configs").exists()
    missing = tmp_path / "none.parquet"
    assert "no such file" in run(
        "init", tmp_path / "p", "--events", missing, "--exposures", odd, code=2
    ).stderr.replace("\n", " ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("boundaries", "--design", "pocock", "--information", "0.5,1"),
        ("assign", "--experiment", "e", "--units", "u1"),
        ("--version",),
    ],
)
def test_small_commands_load_neither_dagster_nor_pandas(arguments):
    code = (
        "import sys\n"
        "from experiments_dagster.cli import main\n"
        f"sys.argv = ['experiments', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "names = {'dagster', 'pandas', 'pandera', 'statsmodels', 'scipy.stats'}\n"
        "heavy = names & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

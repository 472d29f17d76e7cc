"""Every command on a file: the files it leaves, their keys, strict JSON, exit codes, cold start."""

import csv
import datetime as dt
import hashlib
import importlib.util
import re
import subprocess
import sys

import pytest
from user_level_runs import CUPED, RATIO, RATIOS, USERS, bundle, load, refused, run, write

from experiments_dagster import __version__

IMAGE = "png" if importlib.util.find_spec("vl_convert") else "svg"
STREAM = ("--looks", "4,8,10", "--min-n-per-group", "2")
SIMULATE = ("--n", "600", "--n-looks", "3", "--max-n", "600")
TRAJECTORIES = ["effect_trajectory", "z_trajectory"]
RESULT_KEYS = ["command", "inputs", "estimates", "diagnostics", "warnings", "artifacts"]
META_KEYS = {
    *("timestamp_utc", "tecore_version", "python_version", "platform", "cwd", "args", "extra"),
    *("code_version", "plan_hash", "data_versions", "seed"),
}
# Command, file, flags, tables, plots.
VERBS = [
    ("validate", USERS, (), ["schema_expected", "schema_missing", "schema_violations"], []),
    (
        "audit",
        USERS,
        (),
        ["audit_column_profile", "audit_numeric_summary", "audit_group_balance"],
        [],
    ),
    ("cuped", USERS, CUPED, ["summary"], ["x_vs_y_scatter", "y_post_by_group"]),
    ("cuped-ratio", RATIOS, RATIO, ["summary"], ["linearized_by_group", "ratio_post_by_group"]),
    ("sequential-mean", USERS, ("--y", "revenue", *STREAM), ["look_table"], TRAJECTORIES),
    (
        "sequential-ratio",
        RATIOS,
        ("--num", "revenue", "--den", "sessions", "--looks", "4,6", "--min-n-per-group", "1"),
        ["look_table"],
        TRAJECTORIES,
    ),
    ("sequential-simulate", None, SIMULATE, ["look_table"], TRAJECTORIES),
]
each_verb = pytest.mark.parametrize(
    ("command", "text", "flags", "tables", "plots"), VERBS, ids=[verb[0] for verb in VERBS]
)


def arguments_of(tmp_path, command, text, flags):
    if text is None:
        return [command, *flags]
    return [command, "--input", write(tmp_path / "data.csv", text), *flags]


@each_verb
def test_the_folder_of_a_command(tmp_path, command, text, flags, tables, plots):
    folder = tmp_path / "out"
    run(*arguments_of(tmp_path, command, text, flags), "--out", folder)
    results = load((folder / "results.json").read_text())
    assert list(results) == RESULT_KEYS
    assert results["command"] == command
    artifacts = results["artifacts"]
    assert artifacts["report_md"] == "report.md"
    assert artifacts["tables"] == [f"tables/{name}.csv" for name in tables]
    assert sorted(artifacts["plots"]) == [f"plots/{name}.{IMAGE}" for name in plots]
    for file in [*artifacts["tables"], *artifacts["plots"], "report.md"]:
        assert (folder / file).stat().st_size > 0, file
    for file in artifacts["plots"]:
        start = b"\x89PNG" if IMAGE == "png" else b"<svg"
        assert (folder / file).read_bytes().startswith(start)
    assert (folder / "report.md").read_text().startswith(f"# experiments {command}\n")
    meta = load((folder / "run_meta.json").read_text())
    assert meta.keys() == META_KEYS
    assert meta["platform"].keys() == {"system", "release", "machine", "python_implementation"}
    assert meta["code_version"] == __version__
    assert meta["args"]["command"] == command
    assert dt.datetime.fromisoformat(meta["timestamp_utc"]).utcoffset() == dt.timedelta(0)
    if text is not None:
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert meta["data_versions"] == {str(tmp_path / "data.csv"): digest}


@each_verb
def test_single_files_are_really_written(tmp_path, command, text, flags, tables, plots):
    arguments = arguments_of(tmp_path, command, text, flags)
    # Folders on the way are made; without --out nothing else is written.
    json_file, md_file = tmp_path / "deep" / "r.json", tmp_path / "other" / "r.md"
    run(*arguments, "--out-json", json_file, "--out-md", md_file)
    results = load(json_file.read_text())
    assert list(results) == RESULT_KEYS
    assert results["artifacts"] == {"report_md": None, "plots": [], "tables": []}
    assert f"# experiments {command}" in md_file.read_text()
    assert load(run(*arguments, "--out-json", json_file, "--json").stdout) == results
    blocked = write(tmp_path / "file", "x") / "r.json"
    assert "--out-json" in refused(*arguments, "--out-json", blocked)
    assert "--out " in refused(*arguments, "--out", tmp_path / "file")


def test_the_default_folder_is_named_by_command_and_time(tmp_path, monkeypatch):
    write(tmp_path / "data.csv", USERS)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run("cuped", "--input", "data.csv", *CUPED)
    folders = sorted((tmp_path / "results" / "cuped").iterdir())
    assert len(folders) == 2
    assert all(re.fullmatch(r"\d{8}_\d{6}(_2)?", folder.name) for folder in folders)
    assert all((folder / "results.json").exists() for folder in folders)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb[0] != "audit"])
def test_any_command_audits_on_request(tmp_path, verb):
    command, text, flags, *_ = verb
    folder = tmp_path / "out"
    run(*arguments_of(tmp_path, command, text, flags), "--audit", "--out", folder)
    audit = load((folder / "audit.json").read_text())
    assert (audit["command"], audit["parent_command"]) == ("audit", command)
    assert audit["checks"]["srm"]["p_value"] > 0.001
    for file in audit["artifacts"]["tables"]:
        assert (folder / file).exists()
    assert ("tables/audit_schedule_sanity.csv" in audit["artifacts"]["tables"]) == (
        command.startswith("sequential")
    )
    assert "# experiments audit" in (folder / "audit.md").read_text()
    results = load((folder / "results.json").read_text())
    assert results["artifacts"]["audit"] == {"audit_json": "audit.json", "audit_md": "audit.md"}


def test_a_file_that_breaks_its_schema_is_audited_all_the_same(tmp_path):
    file = write(tmp_path / "data.csv", USERS.replace("revenue_pre", "before"))
    results = bundle(tmp_path / "out", "validate", "--input", file, "--audit", code=2)
    assert results["diagnostics"]["missing_required"] == ["revenue_pre"]
    audit = load((tmp_path / "out" / "audit.json").read_text())
    assert audit["parent_command"] == "validate"
    assert not (tmp_path / "out" / "tables" / "audit_schedule_sanity.csv").exists()
    assert "--audit" in run("validate", "--audit", code=2).stderr


def test_the_plan_hash_is_that_of_what_decides_the_numbers(tmp_path):
    file = write(tmp_path / "data.csv", USERS)
    other = write(tmp_path / "other.csv", USERS)

    def plan_hash(source, name, *flags):
        run("cuped", "--input", source, *CUPED, *flags, "--out", tmp_path / name)
        return load((tmp_path / name / "run_meta.json").read_text())["plan_hash"]

    first = plan_hash(file, "a")
    assert first == plan_hash(other, "b", "--alpha", "0.05", "--audit")
    assert first != plan_hash(file, "c", "--alpha", "0.01")


def test_a_table_in_the_folder_holds_what_the_results_hold(tmp_path):
    file = write(tmp_path / "data.csv", USERS)
    run("cuped", "--input", file, *CUPED, "--out", tmp_path / "out")
    estimates = load((tmp_path / "out" / "results.json").read_text())["estimates"]
    with (tmp_path / "out" / "tables" / "summary.csv").open() as lines:
        rows = {row["method"]: row for row in csv.DictReader(lines)}
    assert list(rows) == ["base", "lin", "cuped"]
    for name, row in rows.items():
        assert float(row["diff"]) == estimates[name]["diff"]
        assert float(row["p_value"]) == estimates[name]["p_value"]


def test_version_prints_the_version():
    assert run("version").stdout == f"{__version__}\n"


def test_what_cannot_be_estimated_is_null_with_a_reason(tmp_path):
    file = write(tmp_path / "data.csv", "group,y,x\ncontrol,1,1\ncontrol,1,2\ntest,1,1\ntest,1,3\n")
    run("cuped", "--input", file, "--y", "y", "--x", "x", "--out", tmp_path / "out", code=5)
    base = load((tmp_path / "out" / "results.json").read_text())["estimates"]["base"]
    assert base["status"] == "not_estimable"
    assert base["reason"] == "ZERO_VARIANCE"
    assert base["diff"] is None
    assert base["p_value"] is None


@pytest.mark.parametrize("command", ["cuped", "sequential-mean"])
def test_nothing_slow_is_imported(tmp_path, command):
    """The cold start is what a user waits for: the heavy libraries stay out of it."""
    file = write(tmp_path / "data.csv", USERS)
    flags = CUPED if command == "cuped" else ("--y", "revenue", *STREAM)
    arguments = [command, "--input", str(file), *flags, "--out", str(tmp_path / "out"), "--audit"]
    code = (
        "import sys\n"
        f"sys.argv = {['experiments', *arguments]!r}\n"
        "from experiments_dagster.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'pandas', 'scipy.stats', 'statsmodels', 'pandera', 'dagster', 'duckdb'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

"""`impact` and `causal-impact`: files, keys and columns that readers of old rely on."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer.main
from impact_runs import (
    EXAMPLE,
    FLAGS,
    METHODS,
    REPOSITORY,
    TRUE_TOTAL,
    invoke,
    load,
    results,
    table,
)

from experiments_dagster.cli import app

KEYS = {
    *("method", "intervention_date", "point_effect", "point_ci", "cum_effect", "cum_ci"),
    *("rel_effect", "rel_ci", "p_value", "warnings", "diagnostics", "economics"),
}
COLUMNS = {
    *("date", "y", "y_hat", "effect", "y_hat_lower", "y_hat_upper", "effect_lower"),
    *("effect_upper", "cum_effect", "cum_lower", "cum_upper"),
}
MONEY = {
    *("incremental_revenue", "incremental_revenue_ci", "margin_rate"),
    *("incremental_profit_gross", "incremental_profit_gross_ci"),
    *("campaign_spend", "incremental_cost", "total_costs"),
    *("incremental_profit_net", "incremental_profit_net_ci", "roi_net", "roi_net_ci"),
}
DIAGNOSTICS = {"r2_pre", "rmse_pre", "max_abs_acf_1_to_7", *(f"acf_lag{k}" for k in range(1, 8))}
PLOTS = ("observed_vs_counterfactual", "point_effect", "cumulative_effect")
OLD = {
    "--method": "causal_impact_like",
    "--freq": "D",
    "--missing-policy": "raise",
    "--aggregation": "mean",
    "--ridge-alpha": 1,
    "--bootstrap": 200,
    "--block-size": 7,
    "--run-placebo": False,
    "--n-placebos": 20,
    "--margin-rate": None,
    "--spend-col": None,
    "--incremental-cost": None,
    "--run-sensitivity": False,
    "--spend-basis": "incremental",
}
OLD_BUNDLE = {
    "--alpha": 0.05,
    "--bootstrap-iters": 200,
    "--n-placebos": 0,
    "--seed": 42,
    "--pre-period-min-points": 30,
}


@pytest.mark.parametrize(("command", "old"), [("impact", OLD), ("causal-impact", OLD_BUNDLE)])
def test_every_flag_of_old_is_there_with_its_default(command, old):
    parameters = typer.main.get_command(app).commands[command].params
    options = {flag: option for option in parameters for flag in option.opts}
    assert {flag: options[flag].default for flag in old} == old
    required = {"--input", "--y", "--intervention"}
    assert {flag for flag, option in options.items() if option.required} == required
    assert {"--x", "--date-col", "--out", "--out-json", "--out-md", "--json"} <= options.keys()


@pytest.mark.parametrize("method", METHODS)
def test_the_folder_of_impact(tmp_path, method):
    money = ("--margin-rate", 0.3, "--spend-col", "marketing_spend", "--incremental-cost", 200)
    found = results(
        *(tmp_path, "impact", *FLAGS, "--method", method, *money),
        *("--run-placebo", "--n-placebos", 8, "--run-sensitivity"),
    )
    assert found.keys() >= KEYS
    assert (found["method"], found["intervention_date"]) == (method, "2025-06-30")
    assert found["diagnostics"].keys() >= DIAGNOSTICS
    assert set(found["compat_note"]) >= {"ridge_alpha", "bootstrap", "block_size"}
    for name in PLOTS:
        assert (tmp_path / "plots" / f"{name}.png").stat().st_size > 1000
    for name in ("report.md", "run_meta.json"):
        assert (tmp_path / name).stat().st_size > 100
    assert load((tmp_path / "economics.json").read_text()) == found["economics"]
    assert found["economics"].keys() >= MONEY

    columns, rows = table(tmp_path / "effect_series.csv")
    assert set(columns) == COLUMNS
    assert len(rows) == 240
    after = rows[180:]
    assert [row["effect"] for row in rows[:180]] == [""] * 180
    # Quantiles of summed paths end at the interval of the total, to the digit.
    assert [float(after[-1]["cum_lower"]), float(after[-1]["cum_upper"])] == found["cum_ci"]
    assert float(after[-1]["cum_effect"]) == pytest.approx(found["cum_effect"])
    # What was written before: sums of pointwise limits, another and wider interval.
    summed = sum(float(row["effect_upper"]) - float(row["effect_lower"]) for row in after)
    assert summed > 1.5 * (found["cum_ci"][1] - found["cum_ci"][0])
    for row in after:
        assert float(row["effect"]) == pytest.approx(float(row["y"]) - float(row["y_hat"]))

    columns, rows = table(tmp_path / "placebo_results.csv")
    assert columns == ["placebo_date", "cum_effect"]
    assert len(rows) == 8
    as_large = sum(abs(float(row["cum_effect"])) >= abs(found["cum_effect"]) for row in rows)
    assert found["placebo"]["p_value"] == pytest.approx((1 + as_large) / 9)

    columns, rows = table(tmp_path / "sensitivity_leave_one_out.csv")
    assert [row["left_out"] for row in rows] == ["sessions", "active_users", "external_index"]
    columns, rows = table(tmp_path / "sensitivity_drop_last_pre.csv")
    assert [row["dropped_periods"] for row in rows] == ["7", "14", "21"]
    assert all(float(row["cum_lower"]) < float(row["cum_upper"]) for row in rows)


@pytest.mark.parametrize("method", METHODS)
def test_the_true_effect_of_the_example_is_found(tmp_path, method):
    found = results(tmp_path, "impact", *FLAGS, "--method", method)
    assert found["cum_ci"][0] < TRUE_TOTAL < found["cum_ci"][1]
    assert found["cum_ci"][0] > 0
    assert found["p_value"] < 0.05
    assert found["economics"] is None
    for name in ("placebo_results.csv", "economics.json", "sensitivity_leave_one_out.csv"):
        assert not (tmp_path / name).exists()
    # Nothing was refuted yet: no claim.
    assert found["claim"]["status"] == "WEAK"


def test_the_folder_of_causal_impact(tmp_path):
    found = results(tmp_path, "causal-impact", *FLAGS, "--n-placebos", 5, "--audit")
    assert list(found) == [
        *("command", "inputs", "estimates", "diagnostics", "warnings", "artifacts")
    ]
    estimates = found["estimates"]
    assert estimates["cum_ci"][0] < TRUE_TOTAL < estimates["cum_ci"][1]
    assert estimates["placebo"]["n_placebos"] == 5
    columns, rows = table(tmp_path / "tables" / "effect_series.csv")
    assert columns == ["date", "y", "y_cf", "point_effect", "cum_effect", "is_post"]
    assert [row["is_post"] for row in rows] == ["False"] * 180 + ["True"] * 60
    assert float(rows[-1]["cum_effect"]) == pytest.approx(estimates["cum_effect"])
    assert found["artifacts"]["plots"] == [f"plots/{name}.png" for name in PLOTS]
    assert (tmp_path / "audit.json").exists()


def test_both_verbs_agree_and_a_seed_repeats_them(tmp_path):
    one = results(tmp_path / "a", "impact", *FLAGS)
    two = results(tmp_path / "b", "causal-impact", *FLAGS)["estimates"]
    other = results(tmp_path / "c", "impact", *FLAGS, "--seed", 1)
    for key in ("point_effect", "cum_ci", "rel_ci", "p_value"):
        assert one[key] == two[key]
    assert other["cum_effect"] == one["cum_effect"]
    assert other["cum_ci"] != one["cum_ci"]


def test_single_files_are_written_and_json_is_printed(tmp_path):
    files = ("--out-json", tmp_path / "r.json", "--out-md", tmp_path / "r.md")
    shown = invoke("impact", *FLAGS, *files, "--json").stdout
    assert load(shown) == load((tmp_path / "r.json").read_text())
    assert "## Diagnostics" in (tmp_path / "r.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "r.md"}


@pytest.mark.parametrize("command", ["impact", "causal-impact"])
def test_a_run_file_stands_for_the_verb(tmp_path, command):
    file = tmp_path / "run.yaml"
    file.write_text(
        f"command: {command}\ninput: {EXAMPLE}\nout: {tmp_path / 'out'}\nparams:\n  y: y\n"
        "  x: [sessions, external_index]\n  intervention: 2025-06-30\n  n_placebos: 3\n"
    )
    invoke("run", "--config", file)
    found = load((tmp_path / "out" / "results.json").read_text())
    assert found["inputs"]["x"] == ["sessions", "external_index"]


def commands_of_the_page():
    page = (REPOSITORY / "docs" / "toolkit.md").read_text()
    section = page.split("## Impact\n", 1)[1].split("\n## ", 1)[0]
    (block,) = re.findall(r"```(?:sh|console)\n(.*?)```", section, re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").removeprefix("experiments ") for line in lines]


def test_the_commands_of_the_page_run(tmp_path, monkeypatch):
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    commands = commands_of_the_page()
    assert {command.split()[0] for command in commands} == {"impact", "causal-impact"}
    for command in commands:
        invoke(*shlex.split(command))
    assert list(Path().glob("out/*/results.json"))

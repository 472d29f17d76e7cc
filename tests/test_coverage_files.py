"""The columns and keys that readers of old files rely on, and what the columns hold."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments_dagster.causal.series.impact import estimate_impact
from experiments_dagster.cli import app
from experiments_dagster.interventions.estimate import impact_series

EXAMPLES = Path(__file__).parents[1] / "examples"
USERS, RATIOS = EXAMPLES / "example_user_level.csv", EXAMPLES / "example_ratio.csv"
STREAM, SERIES = EXAMPLES / "sequential.csv", EXAMPLES / "timeseries.csv"
LOOKS = ("--looks", "1000,2000,4000")
# Name: command line, then the keys of old in the estimates and the diagnostics.
TWO_MEANS = {
    *("n_control", "n_test", "mean_control", "mean_test", "diff"),
    *("p_value", "t_stat", "df", "ci_low", "ci_high"),
}
RATIO = {"diff_linearized", "p_value", "ratio_diff_approx", "rel_lift_approx"}
SEQUENTIAL = {"decision", "stopped", "stop_look", "final_p_value", "final_ci", "cs"}
LOOK_COLUMNS = [
    *("n_control", "n_test", "mean_control", "mean_test", "var_control", "var_test"),
    *("diff", "se", "z", "info", "look_n", "t", "boundary_z", "p_value", "crossed"),
]
SEQUENCE_COLUMNS = ["cs_low", "cs_high", "m_value", "p_anytime"]
AUDIT_TABLES = {
    "audit_column_profile": [
        *("column", "dtype", "n_rows", "n_missing", "missing_share", "n_unique", "example")
    ],
    "audit_numeric_summary": ["column", "1%", "50%", "99%"],
    "audit_group_balance": ["group", "n", "share"],
    "audit_schedule_sanity": [
        *("look_n", "n_control_prefix", "n_test_prefix", "min_n_per_group", "ok_min_n")
    ],
}


def results_of(folder, *arguments):
    given = [str(argument) for argument in (*arguments, "--out", folder)]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    return json.loads((folder / "results.json").read_text())


def table(folder, name):
    with (folder / "tables" / f"{name}.csv").open() as lines:
        reader = csv.DictReader(lines)
        return list(reader.fieldnames), list(reader)


def test_the_two_blocks_of_cuped_have_the_keys_of_old(tmp_path):
    flags = ("--input", USERS, "--y", "revenue", "--x", "revenue_pre")
    found = results_of(tmp_path, "cuped", *flags)
    for block in ("base", "cuped"):
        assert found["estimates"][block].keys() >= TWO_MEANS
    assert found["diagnostics"].keys() >= {"theta", "corr_xy", "var_ratio_adj_over_raw"}


def test_the_two_blocks_of_cuped_ratio_have_the_keys_of_old(tmp_path):
    flags = ("--num", "revenue", "--den", "sessions")
    pre = ("--num-pre", "revenue_pre", "--den-pre", "sessions_pre")
    found = results_of(tmp_path, "cuped-ratio", "--input", RATIOS, *flags, *pre)
    for block in ("base", "cuped"):
        assert found["estimates"][block].keys() >= RATIO | {"ci_low", "ci_high"}
    assert found["diagnostics"].keys() >= {
        *("r0_post_control", "r0_pre_control", "theta"),
        *("corr_pre_post_linearized", "zero_den_share", "mean_den_control"),
    }


def test_validate_has_the_keys_of_old(tmp_path):
    schema = ("--schema", "timeseries_causal_impact")
    found = results_of(tmp_path, "validate", "--input", SERIES, *schema)
    assert found["estimates"]["ok"] is True
    assert found["diagnostics"].keys() >= {"n_rows", "n_cols", "missing_required"}
    for name in ("schema_expected", "schema_missing"):
        table(tmp_path, name)


@pytest.mark.parametrize(
    ("command", "columns"),
    [
        ("sequential-mean", ("--y", "y")),
        ("sequential-ratio", ("--num", "num", "--den", "den")),
    ],
)
@pytest.mark.parametrize("mode", ["group_sequential", "confidence_sequence"])
def test_the_look_table_has_the_columns_of_old(tmp_path, command, columns, mode):
    flags = ("--timestamp-col", "timestamp", "--mode", mode, *LOOKS)
    found = results_of(tmp_path, command, "--input", STREAM, *columns, *flags)
    assert found["estimates"].keys() >= SEQUENTIAL
    assert ("ratio_baseline_r0" in found["diagnostics"]) == (command == "sequential-ratio")
    names, rows = table(tmp_path, "look_table")
    wanted = LOOK_COLUMNS + (SEQUENCE_COLUMNS if mode == "confidence_sequence" else [])
    assert names[: len(wanted)] == wanted
    assert [int(row["look_n"]) for row in rows] == [1000, 2000, 4000]
    for row in rows:
        # Looks are cumulative rows; information is 1/se², z is diff/se.
        assert int(row["n_control"]) + int(row["n_test"]) == int(row["look_n"])
        assert float(row["info"]) == pytest.approx(float(row["se"]) ** -2)
        assert float(row["z"]) == pytest.approx(float(row["diff"]) / float(row["se"]))
        assert float(row["diff"]) == pytest.approx(
            float(row["mean_test"]) - float(row["mean_control"])
        )
        assert row["crossed"] in ("True", "False")


def test_the_four_tables_of_an_audit_have_the_columns_of_old(tmp_path):
    flags = ("--schema", "sequential_mean", *LOOKS, "--timestamp-col", "timestamp")
    results_of(tmp_path, "audit", "--input", STREAM, *flags)
    for name, wanted in AUDIT_TABLES.items():
        names, rows = table(tmp_path, name)
        assert set(wanted) <= set(names), name
        assert rows, name
    for file in ("audit.json", "audit.md"):
        assert (tmp_path / file).stat().st_size > 0


def test_the_impact_series_has_the_columns_of_old_and_ends_at_the_total():
    rng = np.random.default_rng(3)
    covariate = rng.normal(50, 5, 90)
    observed = 10 + 2 * covariate + rng.normal(0, 2, 90)
    observed[60:] += 6
    impact = estimate_impact(
        observed, covariate[:, None], 60, min_pre_points=30, n_draws=500, seed=1
    )
    result = SimpleNamespace(
        intervention=SimpleNamespace(slug="spring"), starts=range(90), observed=observed
    )
    series = impact_series(result, impact)
    assert set(series.columns) >= {
        *("date", "y", "y_hat", "y_hat_lower", "y_hat_upper", "effect"),
        *("effect_lower", "effect_upper", "cum_effect", "cum_lower", "cum_upper"),
    }
    last = series.row(-1, named=True)
    total = impact.total
    assert (last["cum_lower"], last["cum_upper"]) == (total.ci_low, total.ci_high)
    assert last["cum_effect"] == pytest.approx(series["effect"].sum())
    # The sum of pointwise limits, as it was, is another and far wider interval.
    pointwise = (series["effect_upper"] - series["effect_lower"]).sum()
    assert not math.isclose(pointwise, total.ci_high - total.ci_low, rel_tol=0.3)

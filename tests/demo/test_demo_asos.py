"""The demo on real summary statistics: published counts, recorded looks, and a second run."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from factories import utc

from experiments_dagster.cli import demo_asos
from experiments_dagster.cli.demo_asos import (
    asos_document,
    call_alone,
    publish,
    run_asos_demo,
    take_looks,
)
from experiments_dagster.config.project import load_project
from experiments_dagster.simulate.asos import ALPHA, MDE, SOURCE, Asos, write_project
from experiments_dagster.simulate.incoming import write_incoming
from experiments_dagster.stats.sequential.boundaries import next_boundary
from experiments_dagster.stats.sequential.power import planned_information
from experiments_dagster.stats.sequential.spending import cumulative_alpha
from experiments_dagster.storage.landing import land
from experiments_dagster.storage.layout import Layout

SHARED = Path(__file__).parents[3] / "shared" / "data" / "sequential" / "expected.json"
SHORT = ("asos-591c2c-1", "asos-a1e2bf-1", "asos-b2da2e-3")


@pytest.fixture(scope="module")
def asos():
    return Asos()


@pytest.fixture(scope="module")
def small(asos, tmp_path_factory):
    """A demo of the three shortest experiments, with every look taken and published."""
    folder = tmp_path_factory.mktemp("asos")
    write_project(folder, asos)
    for path in (folder / "configs" / "experiments").iterdir():
        if path.stem not in SHORT:
            path.unlink()
    project = load_project(folder)
    write_incoming(folder / "incoming", "asos", {SOURCE: asos.rows})
    report = land(project, arrival_day=utc(2026, 1, 1).date(), now=utc(2026, 1, 1), kind="history")
    looks, n_new = take_looks(project, lambda text: None)
    publish(project, lambda text: None)
    return project, report, looks, n_new


@pytest.fixture(scope="module")
def document(small, asos):
    """What the demo prints, with all series of the file and the looks of three experiments."""
    return asos_document(asos, small[2])


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".lock" not in path.name
    }


@pytest.mark.skipif(not SHARED.exists(), reason="shared/ is not beside the checkout")
def test_the_file_gives_the_published_counts(asos, document):
    cases = json.loads(SHARED.read_text())
    wanted = next(c for c in cases if c["case"] == "asos_digital_experiments")["expected"]
    assert asos.usable.height == wanted["rows"]
    assert asos.n_dropped == asos.wide.height - wanted["rows"]
    assert document["series"] == wanted["series"]
    assert document["sample_ratio_p_below_0.001"] == wanted["srm_p_below_001"]
    naive = [rule["called"] for rule in document["rules"] if rule["rule"].startswith("naive")]
    assert naive[:2] == [wanted["final_sig_05"], wanted["ever_sig_05_peeking"]]
    last = asos.usable.group_by("slug", "metric").agg(pl.col("z").sort_by("taken_at").last())
    assert last["z"].abs().max() == pytest.approx(wanted["max_abs_final_z"], abs=1e-8)
    assert len(asos.experiments) == wanted["experiments_variants"]


def test_long_rows_hold_both_arms_of_every_usable_row(asos):
    assert asos.rows.height == 2 * asos.usable.height
    totals = asos.rows.group_by("variant").agg(pl.col("n").sum(), pl.col("mean").sum())
    by_arm = {row[0]: row[1:] for row in totals.iter_rows()}
    for arm, suffix in (("control", "c"), ("treatment", "t")):
        assert by_arm[arm][0] == asos.usable[f"count_{suffix}"].sum()
        assert by_arm[arm][1] == pytest.approx(asos.usable[f"mean_{suffix}"].sum(), rel=1e-12)


def test_the_configuration_of_all_fifty_is_valid_and_each_day_has_a_look(asos, tmp_path):
    write_project(tmp_path, asos)
    project = load_project(tmp_path)
    assert len(project.experiments) == 50
    for item in asos.experiments:
        experiment = project.experiments[item.slug]
        looks = experiment.planned_looks()
        days = asos.daily.filter(slug=item.slug)["day"]
        assert (looks[0], looks[-1], len(looks)) == (days.min(), days.max(), item.n_looks)
        assert experiment.alpha_per_hypothesis == pytest.approx(ALPHA / 4)
        # The last look must not wait for data that will never come.
        last = asos.usable.filter(slug=item.slug)["taken_at"].max()
        assert experiment.ends_at <= last
    before = files_of(tmp_path)
    write_project(tmp_path, asos)
    assert files_of(tmp_path) == before


def test_every_row_lands(small, asos):
    _, report, _, _ = small
    (file,) = report.batch.sources[SOURCE].files
    assert (file.kept, file.quarantined, file.error) == (asos.rows.height, 0, None)


def test_each_look_reads_the_newest_row_of_its_day(small, asos):
    _, _, looks, n_new = small
    assert {slug: len(taken) for slug, taken in looks.items()} == {
        "asos-591c2c-1": 12,
        "asos-a1e2bf-1": 3,
        "asos-b2da2e-3": 2,
    }
    assert n_new == 17
    for slug, taken in looks.items():
        assert taken[-1].is_planned_end
        for look in taken:
            day = utc(*map(int, look.as_of[:10].split("-"))).date()
            rows = asos.usable.filter(slug=slug).filter(
                pl.col("taken_at") <= utc(*day.timetuple()[:3])
            )
            for metric in ("metric_1", "metric_2", "metric_3", "metric_4"):
                wanted = rows.filter(metric=metric)
                effect = look.effect(metric, "treatment", "difference", adjusted=False)
                if wanted.is_empty():
                    assert effect.status == "not_estimable"
                    continue
                last = wanted.row(-1, named=True)
                z = effect.estimate / effect.std_error
                assert z == pytest.approx(last["z"], rel=1e-9, abs=1e-12)
                assert (effect.n_control, effect.n_treatment) == (last["count_c"], last["count_t"])


def test_a_second_run_takes_no_look_and_changes_no_file(small):
    project, _, looks, _ = small
    root = Layout(project.storage).root
    before = files_of(root)
    landed = land(project, arrival_day=utc(2026, 1, 2).date(), now=utc(2026, 1, 2))
    assert landed.batch is None
    again, n_new = take_looks(project, lambda text: None)
    assert n_new == 0
    assert again == looks
    after = files_of(root)
    assert {name for name in after if after[name] != before.get(name)} == set()
    assert before.keys() == after.keys()


def test_an_interrupted_run_goes_on_where_it_stopped(asos, tmp_path):
    """Looks are skipped only by what the ledger says."""
    write_project(tmp_path, asos)
    for path in (tmp_path / "configs" / "experiments").iterdir():
        if path.stem != "asos-a1e2bf-1":
            path.unlink()
    project = load_project(tmp_path)
    write_incoming(tmp_path / "incoming", "asos", {SOURCE: asos.rows})
    land(project, arrival_day=utc(2026, 1, 1).date(), now=utc(2026, 1, 1), kind="history")

    class Stop(Exception):
        pass

    told = []

    def stop_at_the_second(text):
        told.append(text)
        if len(told) == 2:
            raise Stop

    with pytest.raises(Stop):
        take_looks(project, stop_at_the_second)
    looks, n_new = take_looks(project, lambda text: None)
    assert ([len(taken) for taken in looks.values()], n_new) == ([3], 2)


def alone_unpruned(series):
    """The plan rule of one series by the letter: every look, every stored boundary."""
    first = series.row(0, named=True)
    n_c, n_t = first["count_c"], first["count_t"]
    baseline = (n_c * first["mean_c"] + n_t * first["mean_t"]) / (n_c + n_t)
    days = (series["day"][-1] - series["day"][0]).days + 1
    planned = planned_information(
        MDE * baseline, alpha=ALPHA, power=0.8, fractions=[(k + 1) / days for k in range(days)]
    )
    stored, spent = [], 0.0
    for k, (z, information) in enumerate(series.select("z", "information").iter_rows()):
        if stored and information <= stored[-1][0]:
            continue
        fraction = information / planned
        is_last = fraction >= 1 or k == series.height - 1
        allowed = ALPHA if is_last else cumulative_alpha("obrien_fleming", fraction, alpha=ALPHA)
        boundary = next_boundary(
            [(i / information, c) for i, c in stored],
            t=1.0,
            cumulative_alpha_now=max(allowed, spent),
            alpha_spent=spent,
        )
        if boundary.critical_value is not None and abs(z) >= boundary.critical_value:
            return True
        if fraction >= 1:
            return False
        stored.append((information, boundary.critical_value))
        spent = boundary.alpha_spent
    return False


def test_the_pruned_walk_calls_what_the_full_one_calls(asos):
    slugs = [*SHORT, "asos-08bcc2-1", "asos-9b959e-1", "asos-d6e1d7-1", "asos-8e2cb6-1"]
    series = asos.daily.filter(pl.col("slug").is_in(slugs)).partition_by("slug", "metric")
    found = [call_alone(one).by_plan for one in series]
    assert found == [alone_unpruned(one) for one in series]
    assert 0 < sum(found) < len(found)


def test_the_sequence_alone_follows_its_closed_form(asos):
    """|z| above sqrt((1 + r) ln((1 + r) / (r alpha^2))) at some look (METHODS 8.8)."""
    called = 0
    for one in asos.daily.filter(pl.col("slug").str.contains("591|08b|9b9|530")).partition_by(
        "slug", "metric"
    ):
        first = one.row(0, named=True)
        n = np.array([first["count_c"], first["count_t"]])
        baseline = float(n @ [first["mean_c"], first["mean_t"]] / n.sum())
        days = (one["day"][-1] - one["day"][0]).days + 1
        planned = planned_information(
            MDE * baseline, alpha=ALPHA, power=0.8, fractions=[(k + 1) / days for k in range(days)]
        )
        level = -2 * math.log(ALPHA)
        g = planned / (level + math.log1p(level))
        r = g / one["information"].to_numpy()
        limit = np.sqrt((1 + r) * np.log((1 + r) / (r * ALPHA**2)))
        wanted = bool((np.abs(one["z"].to_numpy()) > limit).any())
        assert call_alone(one).by_sequence == wanted
        called += wanted
    assert called > 0


def test_the_rules_name_their_level_and_never_call_more_than_naive_peeking(document):
    found = document["rules"]
    assert all(rule["called"] <= found[1]["called"] for rule in found)
    for rule in found:
        assert rule["alpha"] == (0.0125 if rule["rule"].endswith("as recorded") else 0.05)
    alone = [rule["called"] for rule in found if rule["rule"].endswith("alone")]
    assert all(0 < called < found[1]["called"] for called in alone)


@pytest.mark.slow
def test_the_whole_demo_and_its_second_run(tmp_path, capsys):
    run_asos_demo(tmp_path, as_json=True)
    first = json.loads(capsys.readouterr().out)
    assert (first["experiments"], first["series"], first["rows_dropped"]) == (50, 200, 267)
    assert [rule["called"] for rule in first["rules"]][:2] == [42, 111]
    assert sum(first["verdicts"].values()) == 50
    # Of the eight mismatches four are off by more than 0.1 % of the units.
    assert first["verdicts"]["INVALID"] == 4
    before = files_of(tmp_path)
    run_asos_demo(tmp_path)
    printed = capsys.readouterr()
    assert "0 looks taken" in printed.err
    for rule in first["rules"]:
        assert rule["rule"] in printed.out
    assert files_of(tmp_path) == before
    assert first["alpha_per_experiment"] == demo_asos.ALPHA

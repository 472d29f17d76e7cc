"""Looks end to end on a small simulated shop: taken once, paid once, the same when seen again."""

import datetime as dt
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from factories import (
    EXPERIMENT,
    METRICS,
    incoming,
    land_now,
    make_project,
    manifest_of,
    write_configs,
)

from experiments_dagster.config.project import load_project
from experiments_dagster.frames.unit_frames import build_unit_frames
from experiments_dagster.looks.calendar import start_of_day
from experiments_dagster.looks.plan import PlanChangedError
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.take import build_frames, look_at, open_ledger, recompute, take_look
from experiments_dagster.simulate.shop import Shop
from experiments_dagster.storage.errors import BusyError, DataDamagedError

SHOP_METRICS = METRICS.replace("event: visit", "event: order")


class Run:
    """A project, its shop, and looks at the local midnights of its calendar."""

    def __init__(self, folder, effect, *, text=EXPERIMENT, n_users=1500):
        self.project = make_project(folder, metrics=SHOP_METRICS, trial=text)
        self.shop = Shop(
            experiment=self.trial, effects={"treatment": effect}, n_users=n_users,
            orders_per_day=0.5, history_days=14, follow_up_days=8, seed=4,
        )  # fmt: skip
        self.landed_until = None

    @property
    def trial(self):
        return self.project.experiments["trial"]

    def land_until(self, day):
        """Land what happened since the last landing and before a day begins."""
        end, name = start_of_day(self.trial, day), str(day)
        begin = self.landed_until or dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
        renames = {"user_id": "user", "occurred_at": "at", "event_id": "id"}
        events = self.shop.events.rename(renames).drop("day")
        exposures = self.shop.exposures.rename({"unit": "user", "exposed_at": "at"}).drop("day")
        for source, table in (("events", events), ("exposures", exposures)):
            rows = table.filter(pl.col("at") >= begin, pl.col("at") < end)
            incoming(self.project, source, name, rows)
        self.landed_until = end
        land_now(self.project)

    def look(self, day):
        as_of = start_of_day(self.trial, day)
        return take_look(self.project, manifest_of(self.project), self.trial, as_of=as_of)

    def land_and_look(self, day):
        self.land_until(day)
        return self.look(day)

    @property
    def looks(self):
        return recorded_looks(self.ledger)

    @property
    def ledger(self):
        return open_ledger(manifest_of(self.project), self.trial)

    def files(self):
        return {path.name: path.read_bytes() for path in self.ledger.folder.glob("*.json")}


def whole_run(folder, effect, skip=()):
    run = Run(folder, effect)
    for number, day in enumerate(run.trial.planned_looks(), start=1):
        if number not in skip:
            assert run.land_and_look(day).is_new
    return run


@pytest.fixture(scope="module")
def aa(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("aa"), 0.0)


@pytest.fixture(scope="module")
def lifted(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("lifted"), 0.5)


def success(look):
    return look.boundary("spend", "treatment")


def test_an_aa_run_takes_its_planned_looks_and_finds_nothing(aa):
    looks = aa.looks
    assert [(look.look, look.planned_index) for look in looks] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert [look.is_planned_end for look in looks] == [False, False, False, True]
    assert [look.cutoff for look in looks] == [1, 2, 3, 4]
    assert {success(look).crossed for look in looks} == {"none"}
    assert [check for look in looks for check in look.checks if not check.passed] == []
    assert [look.verdict for look in looks[:3]] == ["PENDING"] * 3
    assert looks[-1].verdict in ("INCONCLUSIVE", "DO_NOT_SHIP")


def test_alpha_is_spent_by_information_and_all_of_it_at_a_planned_end_that_falls_short(aa):
    rows = [success(look) for look in aa.looks]
    assert rows[-1].information_fraction < 1
    assert rows[-1].alpha_spent == pytest.approx(0.05, abs=1e-12)
    spent = [row.alpha_spent for row in rows]
    assert spent == sorted(spent)
    assert spent[-2] < 0.05
    assert [row.alpha_spent_before for row in rows] == [0.0, *spent[:-1]]


def test_an_injected_effect_is_found_and_its_interval_holds_the_truth(lifted):
    last = lifted.looks[-1]
    effect = last.effect("spend", "treatment", "relative_difference", adjusted=True)
    assert effect.ci_low < 0.5 < effect.ci_high
    assert effect.ci_low > 0
    assert last.verdict == "SHIP"
    assert last.decisions[0].clause == "5 success"
    assert last.boundary("basket", "treatment").kind == "guardrail"


def test_a_skipped_look_leaves_cumulative_alpha_where_it_was(aa, tmp_path):
    gap = whole_run(tmp_path, 0.0, skip={2})
    assert [look.planned_index for look in gap.looks] == [1, 3, 4]
    by_index = {look.planned_index: success(look) for look in aa.looks}
    for look in gap.looks:
        whole = by_index[look.planned_index]
        assert success(look).alpha_spent == pytest.approx(whole.alpha_spent, abs=1e-12)
        assert success(look).statistic == pytest.approx(whole.statistic, rel=1e-12)


def test_taking_a_look_again_gives_the_same_record_and_spends_nothing(aa):
    before = aa.files()
    last = aa.looks[-1]
    for _ in range(3):
        again = aa.look(aa.trial.planned_looks()[-1])
        assert (again.is_new, again.is_peek, again.look) == (False, False, last)
    assert aa.files() == before


def test_after_the_planned_end_the_last_look_stands_and_nothing_is_spent(aa):
    before, last = aa.files(), aa.looks[-1]
    later = aa.look(aa.trial.planned_looks()[-1] + dt.timedelta(days=1))
    assert (later.is_new, later.look) == (False, last)
    assert aa.files() == before


def test_a_look_between_planned_ones_is_a_peek(tmp_path):
    run = Run(tmp_path, 0.0, n_users=300)
    first = run.trial.planned_looks()[0]
    run.land_until(first)
    early = run.look(first - dt.timedelta(days=1))
    assert early.is_peek
    assert run.looks == []
    assert run.look(first).is_new
    between = run.look(first + dt.timedelta(days=3))
    assert between.is_peek
    assert between.look.boundaries == ()
    assert len(run.looks) == 1


def numbers(look):
    """Every number of a look, in order."""

    def walk(value):
        if isinstance(value, dict):
            for key in sorted(value):
                yield from walk(value[key])
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)
        elif isinstance(value, float):
            yield value

    return list(walk(look.model_dump(mode="json")))


def test_a_recorded_look_is_recomputed_after_later_data_landed(aa):
    looks, manifest = aa.looks, manifest_of(aa.project)
    for k, seen in enumerate(looks):
        frames = build_unit_frames(
            aa.project, manifest, aa.trial, cutoff=seen.cutoff,
            as_of=dt.datetime.fromisoformat(seen.as_of), publish=False,
        )  # fmt: skip
        again = recompute(manifest.layout, aa.trial, frames, looks[:k], seen)
        assert numbers(again) == pytest.approx(numbers(seen), rel=1e-12, abs=0)
        assert (again.verdict, again.inputs) == (seen.verdict, seen.inputs)


# every standard error again, by numpy alone


def welch(y, treated):
    arms = [y[~treated], y[treated]]
    return np.sqrt(sum(a.var(ddof=1) / a.size for a in arms))


def lin_hc2(y, treated, covariates):
    """y on 1, T, X - mean(X) and T (X - mean(X)); HC2 sandwich, element [T, T]."""
    x = covariates[:, covariates.std(axis=0) > 0]
    x = x - x.mean(axis=0)
    t = treated.astype(float)
    design = np.column_stack([np.ones_like(y), t, x, x * t[:, None]])
    bread = np.linalg.pinv(design.T @ design)
    residual = y - design @ (bread @ design.T @ y)
    leverage = np.einsum("ij,jk,ik->i", design, bread, design)
    meat = (design * (residual**2 / (1 - leverage))[:, None]).T @ design
    return np.sqrt((bread @ meat @ bread)[1, 1])


def delta(numerator, denominator, treated):
    total = 0.0
    for arm in (~treated, treated):
        n, d = numerator[arm], denominator[arm]
        linear = (n - n.sum() / d.sum() * d) / d.mean()
        total += linear.var(ddof=1) / n.size
    return np.sqrt(total)


def test_standard_errors_equal_an_independent_recomputation(lifted):
    manifest, checked = manifest_of(lifted.project), 0
    for look in lifted.looks:
        frames = build_unit_frames(
            lifted.project, manifest, lifted.trial, cutoff=look.cutoff,
            as_of=dt.datetime.fromisoformat(look.as_of), publish=False,
        )  # fmt: skip
        for effect in look.effects:
            if effect.estimand != "difference" or effect.status != "ok":
                continue
            name = effect.metric
            table, columns = frames.user, [name]
            if name == "basket":
                table, columns = frames.ratio, ["basket_numerator", "basket_denominator"]
            table = table.filter(pl.col(columns[0]).is_not_null())
            treated = (table["arm"] == "treatment").to_numpy()
            outcomes = [table[c].to_numpy() for c in columns]
            x = np.column_stack(
                [*(table[f"pre_{c}"].to_numpy() for c in columns),
                 table["is_pre_missing"].to_numpy().astype(float)]
            )  # fmt: skip
            if name == "basket":
                n, d = outcomes
                linear = np.empty_like(n)
                for arm in (treated, ~treated):
                    linear[arm] = (n[arm] - n[arm].sum() / d[arm].sum() * d[arm]) / d[arm].mean()
                own = lin_hc2(linear, treated, x) if effect.is_adjusted else delta(n, d, treated)
            else:
                y = outcomes[0]
                own = lin_hc2(y, treated, x) if effect.is_adjusted else welch(y, treated)
                if not effect.is_adjusted:
                    raw = y[treated].mean() - y[~treated].mean()
                    assert effect.estimate == pytest.approx(raw, rel=1e-9)
            assert effect.std_error == pytest.approx(own, rel=1e-6), (name, effect.is_adjusted)
            checked += 1
    assert checked == 4 * 5 * 2


# crashes

KILLED = """
import os, signal, sys
from pathlib import Path
from experiments_dagster.config.project import load_project
from experiments_dagster.looks.calendar import start_of_day
from experiments_dagster.looks.take import take_look
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.ledger import Ledger
from experiments_dagster.storage.manifest import Manifest

def die(self, *args):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(Ledger, sys.argv[2], die)
project = load_project(Path(sys.argv[1]))
trial = project.experiments["trial"]
as_of = start_of_day(trial, trial.planned_looks()[0])
take_look(project, Manifest(Layout(project.storage)).refresh(), trial, as_of=as_of)
"""


AFTER_RECORD = """
write = Ledger._write

def write_and_die(self, kind, body):
    write(self, kind, body)
    if kind == "recorded":
        die(self)

Ledger._write = write_and_die
"""


@pytest.mark.parametrize(("point", "left"), [("reserve", 1), ("record", 2), ("write_twin", None)])
def test_a_killed_look_is_taken_once_with_the_same_cut_off(tmp_path, point, left):
    run = Run(tmp_path, 0.0, n_users=900)
    first, second, *_ = run.trial.planned_looks()
    run.land_until(first)
    # the twin is also written when the lock is taken: there die right after the record
    code = KILLED.replace("setattr(Ledger, sys.argv[2], die)", AFTER_RECORD)
    code = code if point == "write_twin" else KILLED
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path), point], check=False)
    assert child.returncode == -signal.SIGKILL
    if left is not None:
        assert len(run.files()) == left
    run.land_until(second)
    if point == "write_twin":
        assert len(run.looks) == 1
        assert run.look(first).is_new is False
    else:
        assert run.look(first).is_new
    (look,) = run.looks
    # a reservation keeps its cut-off; before it nothing was promised
    assert look.cutoff == (2 if point == "reserve" else 1)
    assert [name for name in run.files() if "reserved" in name] == ["000001.reserved.json"]
    assert success(look).alpha_spent_before == 0.0
    assert run.look(second).look.look == 2


def test_frames_of_another_cut_off_do_not_fill_a_reservation(tmp_path):
    run = Run(tmp_path, 0.0, n_users=300)
    first, second, *_ = run.trial.planned_looks()
    run.land_until(first)
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "record"], check=False)
    assert child.returncode == -signal.SIGKILL
    run.land_until(second)
    manifest = manifest_of(run.project)
    newer = build_unit_frames(
        run.project, manifest, run.trial, cutoff=2, as_of=start_of_day(run.trial, second)
    )
    with pytest.raises(BusyError, match="cut-off"):
        look_at(manifest, run.trial, newer)
    assert run.looks == []
    assert run.look(second).look.cutoff == 1


def test_a_damaged_ledger_stops_every_look(tmp_path):
    run = Run(tmp_path, 0.0, n_users=300)
    first, second, *_ = run.trial.planned_looks()
    run.land_and_look(first)
    recorded = run.ledger.folder / "000001.recorded.json"
    recorded.write_text(recorded.read_text().replace('"verdict": "PENDING"', '"verdict": "SHIP"'))
    with pytest.raises(DataDamagedError):
        run.land_and_look(second)


# the plan


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("mde: 0.1", "mde: 0.2", "plan.mde: 0.1 -> 0.2"),
        ("mde: 0.1", "mde: 0.1\n  alpha: 0.1", "plan.alpha: 0.05 -> 0.1"),
        ("planned: 4", "planned: 5", "plan.looks.design.planned: 4 -> 5"),
        ("planned: 4", "planned: 4, spending: pocock", "spending: 'obrien_fleming' -> 'pocock'"),
        ("covariate_days: 14", "covariate_days: 7", "covariate_days: 14 -> 7"),
        ("mde: 0.1", "mde: 0.1\n  cap: {value: 9}", "plan.cap: None -> {'value': 9.0}"),
        ("margin: 0.2", "margin: 0.5", "guardrails.0.0.margin: 0.2 -> 0.5"),
        ("a-salt-of-its-own", "a-salt-of-another", "salt: "),
    ],
)
def test_a_plan_edited_after_a_look_is_refused_with_old_and_new(looked, old, new, change):
    base = textwrap.dedent(EXPERIMENT)
    assert base.count(old) == 1
    file = looked.project.folder / "configs/experiments/trial.yaml"
    try:
        file.write_text(base.replace(old, new))
        edited = load_project(looked.project.folder)
        with pytest.raises(PlanChangedError) as caught:
            build_frames(
                edited, manifest_of(edited), edited.experiments["trial"],
                as_of=start_of_day(looked.trial, looked.trial.planned_looks()[1]),
            )  # fmt: skip
        assert change in str(caught.value)
        assert "a-salt-of" not in str(caught.value)
        file.write_text(base.replace("team:growth", "team:other").replace("More", "Less"))
        allowed = load_project(looked.project.folder)
        assert build_frames(
            allowed, manifest_of(allowed), allowed.experiments["trial"],
            as_of=start_of_day(looked.trial, looked.trial.planned_looks()[0]),
        )  # fmt: skip
    finally:
        file.write_text(base)


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("looked"), 0.0, n_users=300)
    run.land_and_look(run.trial.planned_looks()[0])
    return run


def test_a_confidence_sequence_looks_without_end_and_spends_nothing(tmp_path):
    text = EXPERIMENT.replace("kind: group_sequential, planned: 4", "kind: confidence_sequence")
    run = Run(tmp_path, 0.5, text=text)
    day, found = run.trial.first_look(), []
    for _ in range(3):
        attempt = run.land_and_look(day)
        assert attempt.is_new
        guardrails = attempt.look.boundaries
        assert [(row.kind, row.alpha_spent) for row in guardrails] == [("guardrail", 0.0)]
        found.append(attempt.look.anytime[0])
        day += dt.timedelta(days=7)
    p_values = [row.p_value for row in found]
    assert p_values == sorted(p_values, reverse=True)
    assert found[-1].running_low >= found[0].low
    rows = [look.boundaries[0] for look in run.looks]
    assert len({row.tuning for row in rows}) == 1
    # One bound for all times is wider than the fixed one, and narrows towards the planned end.
    assert all(row.critical_value > 1.645 for row in rows)
    assert rows[-1].critical_value < rows[0].critical_value
    assert run.looks[-1].verdict == "SHIP"


def test_nothing_in_a_ledger_names_a_unit(aa):
    assert Path(aa.ledger.folder).exists()
    assert not any(b"s000" in content for content in aa.files().values())


def test_a_second_phase_needs_a_new_salt(tmp_path):
    run = Run(tmp_path, 0.0)
    run.land_until(dt.date(2026, 3, 17))
    as_of = start_of_day(run.trial, dt.date(2026, 3, 17))
    take_look(run.project, manifest_of(run.project), run.trial, as_of=as_of)
    second = run.trial.model_copy(update={"phase": 2})
    with pytest.raises(PlanChangedError, match="phase 2 has the salt of phase 1"):
        take_look(run.project, manifest_of(run.project), second, as_of=as_of)
    fresh = second.model_copy(update={"salt": "another-salt-altogether"})
    attempt = take_look(run.project, manifest_of(run.project), fresh, as_of=as_of)
    assert attempt.look.look_id == "trial.2.1"
    assert attempt.is_new


def test_batches_that_a_look_has_read_and_that_are_gone_are_noticed(tmp_path):
    run = Run(tmp_path, 0.0)
    run.land_until(dt.date(2026, 3, 10))
    run.land_until(dt.date(2026, 3, 17))
    as_of = start_of_day(run.trial, dt.date(2026, 3, 17))
    take_look(run.project, manifest_of(run.project), run.trial, as_of=as_of)
    (run.project.storage / "landing" / "manifest" / "000002.json").unlink()
    with pytest.raises(DataDamagedError, match="ends at batch 1, but a look of trial read 2"):
        take_look(run.project, manifest_of(run.project), run.trial, as_of=as_of)


def test_a_display_unit_is_no_part_of_the_plan(tmp_path):
    run = Run(tmp_path, 0.0)
    shown = run.trial.primary.model_copy(update={"display_unit": "EUR"})
    assert run.trial.model_copy(update={"primary": shown}).plan_hash == run.trial.plan_hash


def test_a_misspelt_event_is_not_taken_for_too_few_units(tmp_path):
    metrics = SHOP_METRICS.replace(
        "spend: {kind: mean, event: order", "spend: {kind: mean, event: ordre"
    )
    run = Run(tmp_path, 0.0)
    run.project = load_project(write_configs(tmp_path, metrics=metrics))
    run.land_until(dt.date(2026, 3, 24))
    as_of = start_of_day(run.trial, dt.date(2026, 3, 24))
    look = take_look(run.project, manifest_of(run.project), run.trial, as_of=as_of).look
    assert look.verdict == "PENDING"
    assert "spend: the variance is zero" in look.reason

"""The simulated shop: known effects, ordered times, the same every time."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from experiments_dagster.simulate.incoming import local_midnight_utc, write_incoming
from experiments_dagster.simulate.shop import Shop, day_of
from experiments_dagster.stats.design.allocation import assign


def shop(project, effects=None, *, seed=1, n_users=4000, rate=0.2):
    return Shop(
        experiment=project.experiments["trial"], effects=effects or {}, n_users=n_users,
        orders_per_day=rate, history_days=14, follow_up_days=7, seed=seed,
    )  # fmt: skip


def test_the_same_seed_gives_the_same_shop_and_another_seed_another(project):
    assert shop(project).events.equals(shop(project).events)
    assert not shop(project).events.equals(shop(project, seed=2).events)


def test_arms_are_the_salted_hash_and_times_lie_in_the_window(project):
    made, trial = shop(project, n_users=500), project.experiments["trial"]
    for unit, at, slug, arm, _ in made.exposures.iter_rows():
        rule = assign(unit, experiment=slug, salt=trial.salt, shares=trial.variants)
        assert arm == rule.variant
        assert trial.starts_at <= at < trial.ends_at
    assert made.events["event_id"].is_unique().all()


@pytest.mark.parametrize("effect", [0.0, 0.5])
def test_the_order_rate_of_an_arm_moves_by_its_effect_after_exposure_only(project, effect):
    made = shop(project, {"treatment": effect})
    rows = made.events.join(made.users, on="user_id")
    rows = rows.with_columns(is_after=pl.col("occurred_at") >= pl.col("exposed_at"))
    n = dict(made.users.group_by("variant").len().iter_rows())
    rate = {
        (arm, after): count / n[arm]
        for arm, after, count in rows.group_by("variant", "is_after").len().iter_rows()
    }
    # gamma-Poisson counts: variance of a unit's total is m + m**2 / 2
    for after, factor in ((True, 1 + effect), (False, 1.0)):
        mean = 0.2 * (7 if after else 14)
        error = np.sqrt((mean * factor + (mean * factor) ** 2 / 2) * 4 / 4000)
        difference = rate["treatment", after] - rate["control", after] * factor
        assert abs(difference) < 4 * error


def test_a_day_is_local_and_written_once(project, tmp_path):
    made = shop(project, n_users=200)
    day = dt.date(2026, 3, 10)
    rows = day_of(made.exposures, day)
    start = local_midnight_utc(day, dt.timezone(dt.timedelta(hours=1)))
    assert rows["exposed_at"].is_between(start, start + dt.timedelta(days=1), closed="left").all()
    assert rows.height
    folder = tmp_path / "incoming"
    tables = {"exposures": rows, "empty": rows.clear()}
    (written,) = write_incoming(folder, "d", tables)
    stamp = written.stat().st_mtime_ns
    assert write_incoming(folder, "d", tables) == []
    assert written.stat().st_mtime_ns == stamp

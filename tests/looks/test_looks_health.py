"""Health checks of a look: a fault on which each fires, a clean case where it is silent."""

import dataclasses
import datetime as dt

import numpy as np
import polars as pl
import pytest
from factories import make_project, utc

from experiments_dagster.frames.unit_frames import FrameInfo, Frames
from experiments_dagster.looks.health import health_checks

N = 4000


def frames(project, *, n_exposed=None, n_multi_arm=None, shift=0.0, seed=1):
    """Frames of N units per arm; `shift` moves the treatment's pre-period by that many sd."""
    rng = np.random.default_rng(seed)
    arms = np.repeat(["control", "treatment"], N)
    before = rng.gamma(2.0, 10.0, 2 * N)
    before += shift * before.std() * (arms == "treatment")
    user = pl.DataFrame(
        {
            "unit": [f"u{k}" for k in range(2 * N)],
            "arm": arms,
            "exposed_at": [
                utc(2026, 3, 2) + dt.timedelta(hours=k % N * 24 * 20 / N) for k in range(2 * N)
            ],
            "is_pre_missing": rng.random(2 * N) < 0.1,
            "pre_spend": before,
            "spend": rng.gamma(2.0, 10.0, 2 * N),
        }
    )
    info = FrameInfo(
        experiment="trial",
        cutoff=1,
        as_of=utc(2026, 4, 1).isoformat(),
        horizon=utc(2026, 4, 1).isoformat(),
        plan_hash="0" * 12,
        user_frame="",
        ratio_frame="",
        sha256={},
        rows=2 * N,
        n_exposed=n_exposed or {"control": N, "treatment": N},
        n_multi_arm=n_multi_arm or {"control": 0, "treatment": 0},
        n_rows={"control": N, "treatment": N},
        n_immature={},
        inputs={},
    )
    return Frames(info=info, user=user, ratio=user.select("unit", "arm"))


def failed(project, **faults):
    experiment = project.experiments["trial"]
    checks = health_checks(experiment, frames(project, **faults), [], is_planned_end=True).checks
    assert {check.name for check in checks} == {
        "sample_ratio", "units_in_two_arms", "pre_period_missing", "pre_period_balance"
    }  # fmt: skip
    return {check.name: check.severity for check in checks if not check.passed}


def test_a_fair_comparison_is_silent(project):
    assert failed(project) == {}


@pytest.mark.parametrize("seed", range(20))
def test_clean_data_stay_silent_over_fixed_seeds(project, seed):
    assert failed(project, seed=seed) == {}


def test_a_wrong_split_blocks(project):
    counts = {"control": 4200, "treatment": 3800}
    assert failed(project, n_exposed=counts) == {"sample_ratio": "ERROR"}


@pytest.mark.parametrize(
    ("n", "outcome"),
    [
        (2, {}),
        (40, {"units_in_two_arms": "WARN"}),
        (200, {"units_in_two_arms": "ERROR"}),
    ],
)
def test_units_in_two_arms_warn_and_then_block(project, n, outcome):
    assert failed(project, n_multi_arm={"control": n, "treatment": 0}) == outcome


def test_a_biased_pre_period_blocks(project):
    assert failed(project, shift=0.12) == {"pre_period_balance": "ERROR"}


def test_the_message_names_the_metric_and_no_unit(project):
    experiment = project.experiments["trial"]
    made = frames(project, shift=0.12)
    checks = health_checks(experiment, made, [], is_planned_end=False).checks
    message = next(check.message for check in checks if check.name == "pre_period_balance")
    assert "pre_spend" in message
    assert "u1" not in message


def test_without_a_pre_period_there_is_nothing_to_judge(tmp_path):
    project = make_project(tmp_path)
    made = frames(project)
    empty = made.user.with_columns(pre_spend=pl.lit(0.0))
    experiment = project.experiments["trial"]
    bare = Frames(info=made.info, user=empty, ratio=made.ratio)
    checks = health_checks(experiment, bare, [], is_planned_end=False).checks
    assert [check.name for check in checks if not check.passed] == []


def test_a_pre_period_that_is_missing_more_often_in_one_arm_blocks(project):
    made = frames(project)
    user = made.user.with_columns(
        is_pre_missing=pl.col("is_pre_missing")
        | ((pl.col("arm") == "treatment") & (pl.int_range(pl.len()) % 10 == 0))
    )
    experiment = project.experiments["trial"]
    broken = Frames(info=made.info, user=user, ratio=made.ratio)
    checks = health_checks(experiment, broken, [], is_planned_end=False).checks
    assert [(c.name, c.severity) for c in checks if not c.passed] == [
        ("pre_period_missing", "ERROR")
    ]


def with_device(project, *, lost):
    """Frames with a device per unit; `lost` drops that share of treated desktop units late on."""
    made = frames(project)
    rng = np.random.default_rng(4)
    user = made.user.with_columns(
        segment_device=pl.Series(rng.choice(["app", "desktop", "mobile"], 2 * N)),
        _coin=pl.Series(rng.random(2 * N)),
    )
    is_lost = (
        (pl.col("arm") == "treatment")
        & (pl.col("segment_device") == "desktop")
        & (pl.col("exposed_at") >= utc(2026, 3, 12))
        & (pl.col("_coin") < lost)
    )
    user = user.filter(~is_lost).drop("_coin")
    counts = dict(user.group_by("arm").len().iter_rows())
    info = dataclasses.replace(made.info, n_exposed=counts)
    return Frames(info=info, user=user, ratio=made.ratio)


def test_a_split_that_is_wrong_on_one_device_is_named_with_its_onset(project):
    experiment = project.experiments["trial"].model_copy(update={"segments": ("device",)})
    broken = health_checks(
        experiment, with_device(project, lost=0.9), [], is_planned_end=False
    ).checks
    by_name = {check.name: check for check in broken}
    assert by_name["sample_ratio_by_segment"].severity == "ERROR"
    assert "desktop" in by_name["sample_ratio_by_segment"].message
    assert not by_name["sample_ratio"].passed
    assert "most likely since 2026-03-12" in by_name["sample_ratio"].message
    clean = health_checks(experiment, with_device(project, lost=0), [], is_planned_end=False)
    assert [check.name for check in clean.checks if not check.passed] == []
    assert set(clean.log_e_by_level) == {"device=app", "device=desktop", "device=mobile"}

"""Health checks of a look: a fault on which each fires, a clean case where it is silent."""

import numpy as np
import polars as pl
import pytest
from factories import make_project, utc

from experiments_dagster.frames.unit_frames import FrameInfo, Frames
from experiments_dagster.looks.health import CHECK_NAMES, health_checks

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
    checks, _ = health_checks(experiment, frames(project, **faults), [], is_planned_end=True)
    assert {check.name for check in checks} == set(CHECK_NAMES)
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
    checks, _ = health_checks(experiment, frames(project, shift=0.12), [], is_planned_end=False)
    message = next(check.message for check in checks if check.name == "pre_period_balance")
    assert "pre_spend" in message
    assert "u1" not in message


def test_without_a_pre_period_there_is_nothing_to_judge(tmp_path):
    project = make_project(tmp_path)
    made = frames(project)
    empty = made.user.with_columns(pre_spend=pl.lit(0.0))
    experiment = project.experiments["trial"]
    checks, _ = health_checks(
        experiment,
        Frames(info=made.info, user=empty, ratio=made.ratio),
        [],
        is_planned_end=False,
    )
    assert [check.name for check in checks if not check.passed] == []

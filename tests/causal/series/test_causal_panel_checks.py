"""Each refutation of a panel design fires on its fault and is silent on a clean case."""

from dataclasses import replace

import numpy as np
import pytest

from experiments_dagster.causal.series.difference_in_differences import difference_in_differences
from experiments_dagster.causal.series.event_study import estimate_event_study
from experiments_dagster.causal.series.panel_checks import (
    check_cluster_count,
    check_placebo_period,
    check_pre_trend,
    check_relative_magnitude,
)
from experiments_dagster.causal.series.staggered import group_time_effects
from experiments_dagster.stats.errors import EstimationError


def verdict(outcome):
    return outcome.name, outcome.passed, outcome.severity


def make_outcomes(*, effect=0.0, slope=0.0, noise=1.0, n_pre=5, seed=2):
    rng = np.random.default_rng(seed)
    treated = np.arange(60) < 30
    y = rng.normal(size=(60, 1)) + noise * rng.normal(size=(60, 8))
    y[treated] += slope * np.arange(8) + effect * (np.arange(8) >= n_pre)
    return y, treated


def study(n_pre=5, **changes):
    return estimate_event_study(*make_outcomes(n_pre=n_pre, **changes), n_pre, seed=1)


def staggered(slope=0.0, n_never=40):
    """Effects that grow with time since the start, in two cohorts."""
    rng = np.random.default_rng(2)
    first = np.repeat([3.0, 5.0, np.inf], [40, 40, n_never])
    y = rng.normal(size=(len(first), 1)) + rng.normal(size=(len(first), 7))
    lag = np.arange(7) - first[:80, None]
    y[:80] += (lag + 2) * (lag >= 0) + slope * np.arange(7)
    return y, first


def test_pre_trend():
    clean = check_pre_trend(study(effect=3.0))
    assert (clean.name, clean.passed) == ("pre_trend", True)
    assert "power" in clean.message
    fault = check_pre_trend(study(slope=1.0))
    assert verdict(fault) == ("pre_trend", False, "ERROR")
    assert fault.value < fault.threshold == 0.05
    # The same trend under an effect that no continuation of it could make.
    survives = check_pre_trend(study(slope=1.0, effect=30.0))
    assert verdict(survives) == ("pre_trend", False, "WARN")
    assert "survives" in survives.message
    with pytest.raises(EstimationError) as caught:
        check_pre_trend(study(n_pre=1))
    assert caught.value.code == "N_TOO_SMALL"


def test_pre_trend_of_staggered_starts():
    clean = check_pre_trend(group_time_effects(*staggered(), seed=1))
    assert verdict(clean) == ("pre_trend", True, "ERROR")
    fault = check_pre_trend(group_time_effects(*staggered(slope=1.0), seed=1))
    assert verdict(fault) == ("pre_trend", False, "ERROR")


def test_relative_magnitude():
    clean = check_relative_magnitude(study(effect=10.0))
    assert verdict(clean) == ("relative_magnitude", True, "WARN")
    assert clean.value >= clean.threshold == 1.0
    # Significant by itself, but not against trends as large as the noise before the start.
    found = study(effect=0.8)
    assert found.average.p_value < 0.05
    fault = check_relative_magnitude(found)
    assert verdict(fault) == ("relative_magnitude", False, "WARN")
    assert "does not show them" in fault.message
    with pytest.raises(EstimationError, match="no change before the start"):
        check_relative_magnitude(study(n_pre=1))


def before_the_start(*, start, **changes):
    y, treated = make_outcomes(**changes)
    y, units = y[:, :5], np.repeat(np.arange(60), 5)
    return difference_in_differences(
        y.ravel(), np.repeat(treated, 5), np.tile(np.arange(5) >= start, 60), clusters=units, seed=1
    ).difference


def test_placebo_period():
    clean = check_placebo_period(before_the_start(start=3), start="period 3", alpha=0.05)
    assert verdict(clean) == ("placebo_period_period 3", True, "ERROR")
    # What began two periods early is found before the start.
    early = before_the_start(start=3, effect=3.0, n_pre=3)
    fault = check_placebo_period(early, start="period 3", alpha=0.05)
    assert verdict(fault) == ("placebo_period_period 3", False, "ERROR")
    assert fault.threshold == 0.05
    y, treated = make_outcomes(effect=3.0, n_pre=3)
    average = estimate_event_study(y[:, :5], treated, 3, seed=1).average
    assert not check_placebo_period(average, start="3", alpha=0.05).passed


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_a_stricter_claim_is_no_easier_to_defend(alpha):
    """Both trends are seen at 5 % and not at 0.1 %."""
    found = study(slope=0.1, seed=5)
    assert 0.001 < found.pre_trend.test.p_value < 0.05
    outcome = check_pre_trend(replace(found, confidence_level=1 - alpha))
    assert (outcome.passed, outcome.threshold) == (False, 0.05)
    early = before_the_start(start=3, slope=0.25)
    assert 0.001 < early.p_value < 0.05
    outcome = check_placebo_period(replace(early, ci_low=-9.0), start="3", alpha=alpha)
    assert (outcome.passed, outcome.threshold) == (False, 0.05)
    loose = check_pre_trend(replace(found, confidence_level=0.9))
    assert loose.threshold == 0.1


def test_cluster_count():
    assert verdict(check_cluster_count(12, 10)) == ("cluster_count", True, "WARN")
    fault = check_cluster_count(12, 9)
    assert verdict(fault) == ("cluster_count", False, "WARN")
    assert (fault.value, fault.threshold) == (9.0, 10.0)
    assert check_cluster_count(12, 4, interval="wild_cluster_bootstrap").passed
    exchangeable = check_cluster_count(12, 3, interval="randomization")
    assert (exchangeable.passed, exchangeable.threshold) == (False, 4.0)


def test_cluster_count_reads_what_the_estimator_says():
    rows = np.repeat(np.arange(12), 20)
    rng = np.random.default_rng(5)
    found = difference_in_differences(
        rng.normal(size=240), rows < 6, np.tile([0, 1], 120), clusters=rows, seed=1
    ).difference
    outcome = check_cluster_count(found.n_control, found.n_treatment, interval=found.interval)
    assert (outcome.passed, outcome.value) == (True, 6.0)
    assert "wild cluster bootstrap" in outcome.message

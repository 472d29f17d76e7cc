"""Placebo interventions in time."""

import numpy as np
import pytest

from experiments_dagster.causal.series.placebo import placebo_in_time
from experiments_dagster.stats.errors import EstimationError


def placebo(observed, covariates, n_pre=250, **changes):
    return placebo_in_time(observed, covariates, n_pre, **({"min_pre_points": 40} | changes))


def long_series(series, **changes):
    return series(**({"n_pre": 250, "n_post": 10} | changes))


def test_a_real_effect_outranks_all_placebos_and_p_is_never_zero(series):
    result = placebo(*long_series(series, effect=5.0))
    assert result.p_value == pytest.approx(1 / 21)
    assert len(result.effects) == len(result.positions) == 20
    assert result.effect == pytest.approx(5.0, abs=1.0)
    assert not result.is_one_sided
    assert result.sign_p_value > 0.05


def test_without_effect_p_is_the_rank_among_placebos(series):
    result = placebo(*long_series(series))
    count = (np.abs(result.effects) >= abs(result.effect)).sum()
    assert result.p_value == pytest.approx((1 + count) / 21)


def test_positions_leave_room_before_and_after(series):
    result = placebo(*long_series(series))
    assert result.positions[0] == 40
    assert result.positions[-1] == 240
    assert (np.diff(result.positions) >= 10).all()
    assert result.n_disjoint == 20
    assert result.warnings == ()


def test_a_placebo_sees_no_later_outcome(series):
    observed, covariates = long_series(series)
    base = placebo(observed, covariates)
    observed[250:] += 100.0
    assert np.array_equal(placebo(observed, covariates).effects, base.effects)
    observed[245:250] += 100.0
    changed = placebo(observed, covariates).effects != base.effects
    assert changed.tolist() == [False] * 19 + [True]


def test_a_model_that_drifts_away_raises_the_alarm(series):
    observed, covariates = long_series(series, p=0)
    accelerating = observed + 1e-3 * np.arange(260.0) ** 2
    result = placebo(accelerating, covariates)
    assert result.is_one_sided
    assert result.sign_p_value < 1e-3


def test_overlapping_windows_are_counted_once(series):
    result = placebo(*series(n_pre=120, n_post=30), 120)
    assert result.n_disjoint == 2
    assert "20 windows overlap, 2 disjoint: p below 0.33 is luck" in result.warnings
    assert result.sign_p_value >= 0.5


def test_too_few_positions_are_refused(series):
    observed, covariates = series(n_pre=88, n_post=30)
    with pytest.raises(
        EstimationError, match="19 positions with 40 steps before and 30 after"
    ) as e:
        placebo(observed, covariates, 88)
    assert e.value.code == "N_TOO_SMALL"
    assert len(placebo(observed, covariates, 88, min_placebos=19).effects) == 19
    assert len(placebo(*series(n_pre=89, n_post=30), 89).effects) == 20
    with pytest.raises(EstimationError, match="0 positions"):
        placebo(*series(n_pre=60, n_post=30), 60)


def test_positions_without_data_are_left_out(series):
    observed, covariates = long_series(series)
    observed[[3, 150]] = np.nan
    assert len(placebo(observed, covariates, min_placebos=19).effects) == 19
    with pytest.raises(EstimationError, match="19 positions"):
        placebo(observed, covariates)


def test_scale_and_shift_do_not_matter(series):
    observed, covariates = long_series(series)
    base, scaled = placebo(observed, covariates), placebo(100 * observed - 7, 3 * covariates + 1)
    assert scaled.p_value == base.p_value
    assert scaled.effects == pytest.approx(100 * base.effects)

"""Standardised differences by hand, and what they allow to be claimed."""

import numpy as np
import pytest
from unit_samples import make_observational

from experiments_dagster.causal.units.balance import balance_table, status_of
from experiments_dagster.causal.units.propensity import fit_propensity
from experiments_dagster.causal.units.weighting import inverse_weights
from experiments_dagster.stats.errors import EstimationError


def test_numbers_by_hand():
    x = np.array([[1.0, 0], [3.0, 1], [5.0, 1], [2.0, 0], [4.0, 0], [6.0, 1]])
    t = np.array([1, 1, 1, 0, 0, 0])
    number, flag = balance_table(x, t, [1, 1, 1, 3, 1, 0], names=["spend", "is_new"]).rows
    assert number.smd_before == pytest.approx((3 - 4) / 2)
    assert number.smd_after == pytest.approx((3 - 2.5) / 2)
    assert number.variance_ratio_before == pytest.approx(1)
    # Σw(x − x̄)²/(Σw − Σw²/Σw) = 3/(4 − 10/4) = 2 among the controls, 4 among the treated.
    assert number.variance_ratio_after == pytest.approx(2)
    assert flag.scale == pytest.approx(np.sqrt(2) / 3)
    assert flag.smd_before == pytest.approx((1 / 3) / (np.sqrt(2) / 3))
    assert flag.variance_ratio_before is None


def test_the_ate_is_measured_in_pooled_sds():
    x, t = np.array([[1.0], [3.0], [5.0], [2.0], [4.0], [12.0]]), [1, 1, 1, 0, 0, 0]
    row = balance_table(x, t, np.ones(6), target="ate").rows[0]
    assert row.scale == pytest.approx(np.sqrt((4 + 28) / 2))
    assert row.smd_after == row.smd_before == pytest.approx(-3 / 4)


def test_a_level_without_treated_units_is_measured_in_pooled_sds():
    x, t = np.array([[0.0], [0], [0], [1], [0], [1]]), [1, 1, 1, 0, 0, 0]
    row = balance_table(x, t, np.ones(6)).rows[0]
    assert row.scale == pytest.approx(np.sqrt(2 / 9 / 2))
    apart = balance_table(np.array([[5.0]] * 3 + [[9.0]] * 3), t, np.ones(6))
    assert apart.status == "REFUSED"


def test_weighting_repairs_what_selection_broke():
    _, t, x = make_observational(n=5000, confounding=0.8)
    even = balance_table(x, t, np.ones(5000))
    assert even.status == "REFUSED"
    assert even.ess_control == (~t).sum()
    weights = inverse_weights(fit_propensity(x, t), t, target="att")
    repaired = balance_table(x, t, weights)
    assert repaired.status == "SUPPORTED"
    assert repaired.ess_control < (~t).sum()
    assert repaired.max_weight_share < 0.05
    assert [r.smd_before for r in repaired.rows] == [r.smd_after for r in even.rows]


def test_the_worst_covariate_decides():
    rng = np.random.default_rng(4)
    t = np.repeat([1, 0], 2000)
    x = rng.standard_normal((4000, 3)) + np.outer(t, [0, 0.18, 0.05])
    table = balance_table(x, t, np.ones(4000), names=["a", "b", "c"])
    assert (table.worst, table.status) == ("b", "WEAK")
    assert [status_of(s) for s in (0.1, 0.1001, -0.25, -0.2501)] == [
        *("SUPPORTED", "WEAK", "WEAK", "REFUSED")
    ]


def test_scales_and_offsets_do_not_matter():
    _, t, x = make_observational()
    w = inverse_weights(fit_propensity(x, t), t)
    plain = balance_table(x, t, w, target="ate").rows
    moved = balance_table(x * 1000 + 5, t, 3 * w, target="ate").rows
    for a, b in zip(plain, moved, strict=True):
        assert b.smd_after == pytest.approx(a.smd_after, rel=1e-8)
        assert b.variance_ratio_after == pytest.approx(a.variance_ratio_after, rel=1e-8)


@pytest.mark.parametrize(
    ("weights", "code"),
    [([0, 0, 1, 1], "ZERO_DENOMINATOR"), ([1, 1, 1, np.nan], "NON_FINITE_INPUT")],
)
def test_impossible_weights_are_refused(weights, code):
    with pytest.raises(EstimationError) as caught:
        balance_table([[1.0], [2], [3], [5]], [1, 1, 0, 0], weights)
    assert caught.value.code == code


def test_constant_columns_and_senseless_calls_raise():
    with pytest.raises(EstimationError) as caught:
        balance_table([[0.1]] * 4, [1, 1, 0, 0], np.ones(4), names=["age"])
    assert caught.value.code == "ZERO_VARIANCE"
    assert "age" in str(caught.value)
    with pytest.raises(ValueError, match="negative"):
        balance_table([[1.0], [2], [3], [5]], [1, 1, 0, 0], [1, -1, 1, 1])
    with pytest.raises(ValueError, match="names"):
        balance_table([[1.0], [2], [3], [5]], [1, 1, 0, 0], np.ones(4), names=["a", "b"])

import numpy as np
import pytest

from experiments_dagster.stats.design.bias import multi_arm_outcome, pre_period_balance
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.moments import ArmMoments


def split(rng, n=20_000, shift=0.0):
    x = rng.exponential(size=n)
    is_treated = rng.permutation(n) < n // 2
    return (
        ArmMoments.from_arrays(x=x[~is_treated]),
        ArmMoments.from_arrays(x=x[is_treated] + shift),
    )


def test_f10_shift_of_a_tenth_of_a_deviation_blocks():
    outcome = pre_period_balance(*split(np.random.default_rng(1), shift=0.1), column="x", arm="b")
    assert (outcome.passed, outcome.severity, outcome.threshold) == (False, "ERROR", 0.001)
    assert "b " in outcome.message
    assert "CUPED" in outcome.message


def test_f10_clean():
    rng = np.random.default_rng(2)
    outcomes = [pre_period_balance(*split(rng, n=2000), column="x") for _ in range(1000)]
    failed = [outcome for outcome in outcomes if not outcome.passed]
    assert len(failed) <= 22
    assert sum(outcome.severity == "ERROR" for outcome in failed) <= 6


def test_f10_warning_and_bonferroni(summary_arm):
    arms = summary_arm(10_000, 1.0, 1.0), summary_arm(10_000, 1.0 + 0.0425, 1.0)  # z = 3.005
    single = pre_period_balance(*arms, column="y")
    assert (single.passed, single.severity) == (False, "WARN")
    assert pre_period_balance(*arms, column="y", n_comparisons=5).passed


def test_constant_covariates():
    same = ArmMoments.from_arrays(x=[1.0] * 5)
    other = ArmMoments.from_arrays(x=[2.0] * 5)
    assert pre_period_balance(same, same, column="x").passed
    assert pre_period_balance(same, other, column="x").severity == "ERROR"
    with pytest.raises(EstimationError, match="EMPTY_ARM"):
        pre_period_balance(same, ArmMoments.empty(["x"]), column="x")


@pytest.mark.parametrize(
    ("n_excluded", "passed", "severity"),
    [(0, True, "WARN"), (50, True, "WARN"), (500, False, "WARN"), (2000, False, "ERROR")],
)
def test_f12_units_in_several_arms(n_excluded, passed, severity):
    outcome = multi_arm_outcome(n_excluded, 100_000)
    assert (outcome.passed, outcome.severity) == (passed, severity)
    assert outcome.value == pytest.approx(n_excluded / 100_000)


def test_f12_refusals():
    with pytest.raises(EstimationError, match="EMPTY_ARM"):
        multi_arm_outcome(0, 0)
    with pytest.raises(ValueError, match="excluded"):
        multi_arm_outcome(3, 2)

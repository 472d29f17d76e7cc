import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.stats.sequential.spending import cumulative_alpha, spent_per_tail

NAMES = ["obrien_fleming", "pocock", "kim_demets", "hwang_shih_decani"]


@pytest.mark.parametrize("name", NAMES)
@given(a=st.floats(1e-4, 0.5), t=st.floats(0.01, 1), step=st.floats(0, 0.5))
def test_spending_grows_from_nothing_to_the_level(name, a, t, step):
    assert 0 <= spent_per_tail(name, t, a) <= a
    assert spent_per_tail(name, t, a) <= spent_per_tail(name, min(1.0, t + step), a) + 1e-15
    assert spent_per_tail(name, 1.0, a) == a
    assert spent_per_tail(name, 1.3, a) == a


def test_two_sided_plan_is_two_one_sided_plans():
    for name in NAMES:
        two = cumulative_alpha(name, 0.4, alpha=0.05, sides=2)
        assert two == pytest.approx(2 * cumulative_alpha(name, 0.4, alpha=0.025, sides=1))


def test_obrien_fleming_uses_the_quantile_of_half_the_tail_level():
    # z_{0.9875} = 2.2414: 1.08e-6 at the first of five looks, not 2.6e-6 or 1.2e-5.
    assert cumulative_alpha("obrien_fleming", 0.2, alpha=0.05) == pytest.approx(1.0777e-6, rel=1e-4)


def test_closed_forms():
    assert spent_per_tail("kim_demets", 0.5, 0.025) == pytest.approx(0.025 / 8)
    assert spent_per_tail("kim_demets", 0.5, 0.025, parameter=1.0) == pytest.approx(0.0125)
    assert spent_per_tail("pocock", 0.5, 0.1) == pytest.approx(0.1 * math.log(1 + (math.e - 1) / 2))
    linear = spent_per_tail("hwang_shih_decani", 0.3, 0.1, parameter=0.0)
    assert linear == pytest.approx(0.03)
    near = spent_per_tail("hwang_shih_decani", 0.3, 0.1, parameter=1e-9)
    assert near == pytest.approx(linear, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("obf", 0.5, 0.025, None), "unknown spending"),
        (("pocock", 0.0, 0.025, None), "information fraction"),
        (("pocock", 0.5, 1.5, None), "alpha"),
        (("kim_demets", 0.5, 0.025, 0.0), "rho"),
    ],
)
def test_refusals(arguments, message):
    name, t, level, parameter = arguments
    with pytest.raises(ValueError, match=message):
        spent_per_tail(name, t, level, parameter=parameter)
    with pytest.raises(ValueError, match="sides"):
        cumulative_alpha("pocock", 0.5, alpha=0.05, sides=3)

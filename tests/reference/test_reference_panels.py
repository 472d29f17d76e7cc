"""Cases of `timeseries/expected.json` for differences in differences and discontinuities."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments_dagster.causal.series.difference_in_differences import difference_in_differences
from experiments_dagster.causal.units.density import density_jump
from experiments_dagster.causal.units.discontinuity import (
    estimate_discontinuity,
    parametric_discontinuity,
)

SHARED = Path(__file__).parents[3] / "shared" / "data" / "timeseries"
OURS = ("card_krueger", "rdd_senate", "rdd_mlda")
# Formula of the case: order, own slopes on each side.
FORMULAS = {
    "mlda_all~T+a": (1, False),
    "mlda_all~T*a": (1, True),
    "mlda_all~T*a+I(a**2)+T:I(a**2)": (2, True),
}
# The same algorithm as the engine's: what is left is its 1e-8 around ranges, in sixth roots.
SAME_ALGORITHM = 1e-7

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason=f"no reference data at {SHARED}")


def cases():
    return {case["case"]: case for case in json.loads((SHARED / "expected.json").read_text())}


def table(case, *columns):
    """Rows with a value in each of the columns."""
    data = np.genfromtxt(SHARED / case["data"], delimiter=",", names=True)
    rows = np.column_stack([data[name] for name in columns])
    return rows[np.isfinite(rows).all(axis=1)].T


def card_krueger():
    case = cases()["card_krueger"]
    fte, new_jersey, after = table(case, "fte", "nj", "d")
    return case, difference_in_differences(fte, new_jersey, after, seed=1)


def test_card_krueger():
    case, found = card_krueger()
    means = dict(zip(("PA_before", "PA_after", "NJ_before", "NJ_after"), found.means, strict=True))
    actual = {
        "att": found.difference.estimate,
        "se_ols": found.std_error_ols,
        "se_hc1": found.std_error_hc1,
        "n": sum(found.n_rows),
        "means": means,
    }
    assert actual.keys() == case["expected"].keys()
    for name, number in case["expected"].items():
        assert actual[name] == pytest.approx(number, rel=case["tolerance"]["rel"], abs=0), name
    assert found.difference.std_error == found.std_error_hc1


def senate():
    case = cases()["rdd_senate"]
    spec = case["spec"]
    vote, margin = table(case, spec["y"], spec["x"])
    return case, estimate_discontinuity(vote, margin, spec["c"])


def senate_numbers(found):
    rows = (found.conventional, found.bias_corrected, found.robust)
    return {
        "coef": [row.estimate for row in rows],
        "se": [row.std_error for row in rows],
        "ci": [[row.ci_low, row.ci_high] for row in rows],
        "bws": [[found.bandwidth] * 2, [found.bias_bandwidth] * 2],
        "N_h": [found.robust.n_control, found.robust.n_treatment],
    }


def test_senate():
    case, found = senate()
    actual, expected = senate_numbers(found), case["expected"]
    assert actual.keys() == expected.keys()
    tolerance = case["tolerance"]
    for name in ("coef", "se", "ci"):
        difference = np.abs(np.subtract(actual[name], expected[name]))
        assert difference.max() <= tolerance["coef_abs"], name
    np.testing.assert_allclose(actual["bws"], expected["bws"], rtol=tolerance["bw_rel"])
    assert actual["N_h"] == expected["N_h"]
    for name, number in expected.items():
        np.testing.assert_allclose(actual[name], number, rtol=SAME_ALGORITHM, err_msg=name)


def test_the_density_of_the_senate_margin_is_that_of_rddensity():
    # rddensity 3.0 on the same margins at given bandwidths: T = -0.858724, densities as printed.
    # Its jackknife leaves out the covariance of the two sides; ours differs by 2 %.
    (margin,) = table(cases()["rdd_senate"], "margin")
    found = density_jump(margin, 0.0, bandwidths=(20.0, 20.0))
    assert found.density_left == pytest.approx(0.021743, abs=1e-6)
    assert found.density_right == pytest.approx(0.018013, abs=1e-6)
    assert found.statistic == pytest.approx(-0.858724, rel=0.02)
    assert (found.n_left, found.n_right) == (408, 370)
    assert density_jump(margin, 0.0).p_value > 0.3


@pytest.mark.parametrize("formula", FORMULAS)
def test_minimum_drinking_age(formula):
    case = cases()["rdd_mlda"]
    rate, age = table(case, "all", "agecell")
    order, is_interacted = FORMULAS[formula]
    found = parametric_discontinuity(
        rate, age, 21, order=order, is_interacted=is_interacted, variance="ols"
    )
    actual = [found.estimate, found.std_error]
    assert actual == pytest.approx(case["expected"][formula], rel=case["tolerance"]["rel"], abs=0)


def test_the_published_robust_error_of_the_quadratic():
    # Angrist & Pischke, table 4.1: 9.55 (1.83).
    rate, age = table(cases()["rdd_mlda"], "all", "agecell")
    assert parametric_discontinuity(rate, age, 21, order=2).std_error == pytest.approx(
        1.83, abs=0.005
    )


def test_nothing_is_skipped():
    expected = {(name, key) for name in OURS for key in cases()[name]["expected"]}
    checked = {("card_krueger", key) for key in ("att", "se_ols", "se_hc1", "n", "means")}
    checked |= {("rdd_senate", key) for key in ("coef", "se", "ci", "bws", "N_h")}
    checked |= {("rdd_mlda", formula) for formula in FORMULAS}
    assert expected == checked


def test_the_comparisons_can_fail():
    """Wrong twins: an error without its correction, a bandwidth fixed by hand, one common slope."""
    case, found = card_krueger()
    hc0 = found.std_error_hc1 * np.sqrt(790 / 794)
    assert hc0 != pytest.approx(case["expected"]["se_hc1"], rel=case["tolerance"]["rel"], abs=0)
    case, found = senate()
    vote, margin = table(case, "vote", "margin")
    wrong = estimate_discontinuity(vote, margin, 0.0, bandwidth=found.bandwidth)
    assert abs(wrong.robust.estimate - case["expected"]["coef"][2]) > case["tolerance"]["coef_abs"]

"""Every number of `meta/expected.json`, and of the factorial case of `bayes/expected.json`."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.optimize import brentq

from experiments_dagster.stats import meta_analysis
from experiments_dagster.stats.between_variance import cochran_q, paule_mandel, scaled_studies
from experiments_dagster.stats.factorial import factorial_effects
from experiments_dagster.stats.meta_analysis import pool_studies

SHARED = Path(__file__).parents[3] / "shared" / "data"
META, BAYES = SHARED / "meta", SHARED / "bayes"
FACTORIAL = "factorial_toothgrowth"
# Key of the case: model and interval.
POOLED = {
    "EE": ("fixed", "normal"),
    "DL": ("dl", "normal"),
    "REML": ("reml", "normal"),
    "PM": ("pm", "normal"),
    "ML": ("ml", "normal"),
    "DL_HK": ("dl", "hartung_knapp"),
    "REML_HK": ("reml", "hartung_knapp"),
}
ANOVA = ("F", "p", "ss", "coef", "se")
# The case's own engine finds the Paule-Mandel root with R's uniroot on [0, 100] at its default
# tolerance, and stops 2.5e-5 short of it: more than the tolerance of the case.
UNIROOT_TOLERANCE = np.finfo(float).eps ** 0.25

pytestmark = pytest.mark.skipif(not META.exists(), reason=f"no reference data at {META}")


def cases(area):
    return {case["case"]: case for case in json.loads((area / "expected.json").read_text())}


def bcg():
    frame = pl.read_csv(META / cases(META)["bcg"]["data"])
    return frame["yi"].to_numpy(), frame["vi"].to_numpy()


def loose_paule_mandel(y, v):
    return brentq(lambda tau2: cochran_q(y, v, tau2) - (len(y) - 1), 0, 100, xtol=UNIROOT_TOLERANCE)


def numbers_of(pooled):
    """Our numbers under the names of the case; tau2, I2 and Q have no place beside an interval."""
    found = {
        "b": pooled.estimate,
        "se": pooled.std_error,
        "ci": [pooled.ci_low, pooled.ci_high],
        "p": pooled.p_value,
    }
    if pooled.interval == "hartung_knapp":
        return found | {"pi": [pooled.prediction_low, pooled.prediction_high]}
    return found | {
        "tau2": pooled.tau2,
        "I2": pooled.i2,
        "Q": pooled.q,
        "Qp": pooled.q_p_value,
    }


@pytest.mark.parametrize("key", POOLED)
def test_reference(key, monkeypatch):
    case = cases(META)["bcg"]
    y, v = bcg()
    if key == "PM":
        # In units of the case: the scaled studies are over a power of two.
        def estimated(studies, estimator):
            assert estimator == "pm"
            return loose_paule_mandel(y, v) / studies.variance(1.0)

        monkeypatch.setattr(meta_analysis, "estimated_tau2", estimated)
    method, interval = POOLED[key]
    actual = numbers_of(pool_studies(y, v, method=method, interval=interval))
    expected = case["expected"][key]
    assert actual.keys() == expected.keys()
    for name, number in expected.items():
        assert actual[name] == pytest.approx(number, rel=0, abs=case["tolerance"]["abs"]), name


def test_our_paule_mandel_root_is_the_root_and_the_case_is_within_its_search():
    y, v = bcg()
    studies = scaled_studies(y, np.sqrt(v), is_centred=True)
    ours = studies.variance(paule_mandel(studies.y, studies.v))
    assert cochran_q(y, v, ours) == pytest.approx(len(y) - 1, abs=1e-12)
    theirs = cases(META)["bcg"]["expected"]["PM"]["tau2"]
    assert loose_paule_mandel(y, v) == pytest.approx(theirs, abs=1e-10)
    assert abs(ours - theirs) < UNIROOT_TOLERANCE
    assert abs(cochran_q(y, v, theirs) - (len(y) - 1)) > 5e-4


def toothgrowth():
    frame = pl.read_csv(BAYES / cases(BAYES)[FACTORIAL]["data"])
    levels = np.column_stack([frame["supp"] == "VC", frame["dose"] == 2.0])
    return factorial_effects(frame["len"].to_numpy(), levels, factors=["supp", "dose"])


def anova_numbers(key):
    """In the order of the case: effects, then the residuals; or the grand mean, then effects."""
    result = toothgrowth()
    table = result.variance_table
    effects = (result.grand_mean, *result.effects)
    return {
        "F": lambda: [*(row.f for row in table.rows), "NA"],
        "p": lambda: [*(row.p_value for row in table.rows), "NA"],
        "ss": lambda: [*(row.sum_of_squares for row in table.rows), table.residual_sum_of_squares],
        "coef": lambda: [effect.estimate for effect in effects],
        # Classical errors in the case; HC2 is the same in a balanced design of full order.
        "se": lambda: [effect.std_error for effect in effects],
    }[key]()


@pytest.mark.parametrize("key", ANOVA)
def test_reference_factorial(key):
    case = cases(BAYES)[FACTORIAL]
    expected, actual = case["expected"][key], anova_numbers(key)
    assert len(actual) == len(expected)
    for ours, number in zip(actual, expected, strict=True):
        if number == "NA":
            assert ours == "NA"
        else:
            assert ours == pytest.approx(number, rel=case["tolerance"]["rel"], abs=0)


def test_the_tests_of_effects_are_those_of_the_table():
    result = toothgrowth()
    for effect, row in zip(result.effects, result.variance_table.rows, strict=True):
        assert effect.p_value == pytest.approx(row.p_value, rel=1e-9)
        assert effect.degrees_of_freedom == pytest.approx(36)


def test_nothing_is_skipped():
    assert {(name, key) for name, case in cases(META).items() for key in case["expected"]} == {
        ("bcg", key) for key in POOLED
    }
    assert set(cases(BAYES)[FACTORIAL]["expected"]) == set(ANOVA)


def test_the_comparison_can_fail():
    """A wrong twin: t quantiles on the normal standard error are no Hartung-Knapp interval."""
    case = cases(META)["bcg"]
    y, v = bcg()
    pooled = pool_studies(y, v, method="reml", interval="normal")
    half = 2.17881283 * pooled.std_error
    wrong = [pooled.estimate - half, pooled.estimate + half]
    expected = case["expected"]["REML_HK"]["ci"]
    assert wrong != pytest.approx(expected, rel=0, abs=case["tolerance"]["abs"])

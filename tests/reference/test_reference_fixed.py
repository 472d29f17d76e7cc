"""Every number of shared/data/fixed/expected.json against ours, one test per case and key."""

import functools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments_dagster.stats.design.sample_ratio import chi_square
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.omnibus import proportions_chi_square
from experiments_dagster.stats.methods.moments.proportion import (
    compare_proportions,
    contingency_chi_square,
    newcombe_interval,
    wald_interval,
)
from experiments_dagster.stats.methods.moments.ratio import compare_ratios, linearised_t
from experiments_dagster.stats.methods.units.lin import compare_adjusted
from experiments_dagster.stats.methods.units.mann_whitney import compare_ranks, u_statistic
from experiments_dagster.stats.methods.units.pooled_theta import (
    ancova,
    cuped_pooled_theta,
    theta_pooled,
    theta_within,
)
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.multiplicity import adjusted_p_values

AREA = Path(__file__).parents[3] / "shared" / "data" / "fixed"
CASES = (
    {case["case"]: case for case in json.loads((AREA / "expected.json").read_text())}
    if AREA.exists()
    else {}
)
# Not a result: the p-values that the other keys of the case adjust.
INPUTS = {("bh1995_pvalues", "p")}
METHODS = {"bonf": "bonferroni", "holm": "holm", "hoch": "hochberg", "bh": "bh", "by": "by"}


@functools.cache
def frame_of(path):
    file = AREA / path
    return pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file)


class Data:
    """The units of a two-arm case: column by column, with the arm of each unit."""

    def __init__(self, case):
        spec = case["spec"]
        frame = frame_of(case["data"])
        arm = frame[spec["group"]]
        # Arms without names are 0 and 1.
        control, treatment = spec.get("control", 0), spec.get("treat", 1)
        self.frame = frame.filter((arm == control) | (arm == treatment))
        self.is_treated = (self.frame[spec["group"]] == treatment).to_numpy()

    def units(self, column):
        return self.frame[column].cast(pl.Float64).to_numpy()

    def arms(self, **columns):
        values = {name: self.units(column) for name, column in columns.items()}
        return tuple(
            ArmMoments.from_arrays(**{name: value[rows] for name, value in values.items()})
            for rows in (~self.is_treated, self.is_treated)
        )


def welch(data, column, _case):
    result = compare_means(*data.arms(y=column)).difference
    return {
        "n_control": result.n_control,
        "n_treat": result.n_treatment,
        "mean_control": result.control_mean,
        "mean_treat": result.treatment_mean,
        "diff": result.estimate,
        "se": result.std_error,
        "t": result.estimate / result.std_error,
        "df": result.degrees_of_freedom,
        "p": result.p_value,
        "ci_low": result.ci_low,
        "ci_high": result.ci_high,
    }


def lift(data, column, _case):
    result = compare_means(*data.arms(y=column)).relative
    return {"rel": result.estimate, "se_delta": result.std_error}


def proportion(data, column, _case):
    arms = data.arms(y=column)
    result = compare_proportions(*arms).difference
    x = [int(data.units(column)[rows].sum()) for rows in (~data.is_treated, data.is_treated)]
    n = [arm.n for arm in arms]
    counts = (x[0], n[0], x[1], n[1])
    table = [[successes, units - successes] for successes, units in zip(x, n, strict=True)]
    plain, yates = (contingency_chi_square(table, yates=corrected) for corrected in (False, True))
    return {
        "x_control": x[0],
        "x_treat": x[1],
        "diff": result.estimate,
        "z_pooled": result.estimate / result.std_error,
        "p": result.p_value,
        "chi2": plain.statistic,
        "p_chi2": plain.p_value,
        "chi2_yates": yates.statistic,
        "p_yates": yates.p_value,
        "wald_ci": wald_interval(*counts),
        "newcombe_ci": newcombe_interval(*counts),
    }


def ranks(data, column, _case):
    y = data.units(column)
    return {
        "U_treat": u_statistic(y, data.is_treated),
        "p": compare_ranks(y, data.is_treated).p_value,
    }


def ratio(data, columns, _case):
    numerator, denominator = columns.split("_per_")
    arms = data.arms(numerator=numerator, denominator=denominator)
    result, linearised = compare_ratios(*arms).difference, linearised_t(*arms)
    return {
        "ratio_control": result.control_mean,
        "ratio_treat": result.treatment_mean,
        "diff": result.estimate,
        "se_delta": result.std_error,
        "z": result.estimate / result.std_error,
        "p": result.p_value,
        "linearized_t": linearised.estimate / linearised.std_error,
        "linearized_p": linearised.p_value,
    }


def cuped(data, columns, _case):
    outcome, covariate = columns.split("_by_")
    y, x, mask = data.units(outcome), data.units(covariate), data.is_treated
    result = cuped_pooled_theta(y, mask, x)
    pooled = result.adjusted.difference
    regression = ancova(y, mask, x)
    interacted = compare_adjusted(y, mask, x[:, None], names=[covariate]).adjusted.difference
    return {
        "n": pooled.n_control + pooled.n_treatment,
        "theta_pooled": theta_pooled(y, x),
        "theta_within": theta_within(y, mask, x),
        "diff_cuped": pooled.estimate,
        "se_cuped": pooled.std_error,
        "t": pooled.estimate / pooled.std_error,
        "p": pooled.p_value,
        "corr": result.correlation,
        "var_ratio": 1 - result.correlation**2,
        "ancova_coef": regression.estimate,
        "ancova_se_hc1": regression.std_error,
        "lin_coef": interacted.estimate,
        "lin_se_hc2": interacted.std_error,
    }


def sample_ratio(data, _rest, _case):
    n = [int(np.count_nonzero(rows)) for rows in (~data.is_treated, data.is_treated)]
    result = chi_square(n, [0.5, 0.5])
    return {"n": n, "chi2": result.statistic, "p": result.p_value}


def sample_ratio_of_three(_data, _rest, case):
    sizes = dict(frame_of(case["data"])["segment"].value_counts().iter_rows())
    result = chi_square(list(sizes.values()), [1 / 3] * 3)
    return {"n": sizes, "chi2": result.statistic, "p": result.p_value}


def chi_square_of_three(_data, column, case):
    groups = frame_of(case["data"]).group_by("segment")
    outcomes = [frame[column].to_numpy() for _, frame in groups]
    result = proportions_chi_square([y.sum() for y in outcomes], [len(y) for y in outcomes])
    return {"chi2": result.statistic, "df": result.degrees_of_freedom, "p": result.p_value}


# What a key begins with, and who computes it; the rest of the key names the columns.
TWO_ARMS = {
    "welch_": welch,
    "rel_lift_": lift,
    "prop_": proportion,
    "mw_": ranks,
    "ratio_": ratio,
    "cuped_": cuped,
    "srm_50_50": sample_ratio,
}
THREE_ARMS = {"srm": sample_ratio_of_three, "chi2_": chi_square_of_three}
CHECKERS = {
    "cookie_cats": TWO_ARMS,
    "nsw_experimental": TWO_ARMS,
    "hillstrom_half_mens": TWO_ARMS,
    "hillstrom_half_womens": TWO_ARMS,
    "hillstrom_half_multiarm": THREE_ARMS,
    "bh1995_pvalues": METHODS,
}


@functools.cache
def data_of(name):
    return Data(CASES[name]) if CHECKERS[name] is TWO_ARMS else None


def compute(name, key):
    if CHECKERS[name] is METHODS:
        return adjusted_p_values(CASES[name]["expected"]["p"], METHODS[key])
    prefix = prefix_of(name, key)
    return CHECKERS[name][prefix](data_of(name), key.removeprefix(prefix), CASES[name])


def prefix_of(name, key):
    """What the key begins with, where somebody computes it."""
    if CHECKERS.get(name) is METHODS:
        return key if key in METHODS else None
    return next((prefix for prefix in CHECKERS.get(name, ()) if key.startswith(prefix)), None)


def numbers_of(block, path=""):
    """The numbers of a nested block by their path, so that none goes uncompared."""
    if isinstance(block, dict):
        items = block.items()
    elif isinstance(block, (list, tuple)):
        items = enumerate(block)
    else:
        return {path: block}
    return {
        inner: number
        for name, part in items
        for inner, number in numbers_of(part, f"{path}/{name}").items()
    }


PAIRS = [
    pytest.param(name, key, id=f"{name}-{key}")
    for name, case in CASES.items()
    for key in case["expected"]
    if (name, key) not in INPUTS
]


@pytest.mark.skipif(not CASES, reason=f"no reference data at {AREA}")
@pytest.mark.parametrize(("name", "key"), PAIRS)
def test_reference(name, key):
    case = CASES[name]
    actual = numbers_of(compute(name, key))
    expected = numbers_of(case["expected"][key])
    assert actual.keys() == expected.keys()
    tolerance = {"rel": case["tolerance"].get("rel", 0.0), "abs": case["tolerance"].get("abs", 0.0)}
    for path, number in expected.items():
        assert actual[path] == pytest.approx(number, **tolerance), f"{name}:{key}{path}"


@pytest.mark.skipif(not CASES, reason=f"no reference data at {AREA}")
def test_nothing_is_skipped():
    missing = [
        f"{name}:{key}"
        for name, case in CASES.items()
        for key in case["expected"]
        if (name, key) not in INPUTS and prefix_of(name, key) is None
    ]
    assert missing == []
    # Cases and keys of which something is expected, whatever the file says.
    assert set(CASES) == set(CHECKERS)
    assert {(name, key) for name, key in INPUTS if key not in CASES[name]["expected"]} == set()
    used = {prefix_of(name, key) for name, case in CASES.items() for key in case["expected"]}
    assert used >= set(TWO_ARMS) | set(THREE_ARMS) | set(METHODS)


@pytest.mark.skipif(not CASES, reason=f"no reference data at {AREA}")
def test_published_rejections():
    """Benjamini & Hochberg 1995, section 3.2: at 0.05 Bonferroni rejects 3, their procedure 4."""
    rejected = {
        key: sum(p < 0.05 for p in compute("bh1995_pvalues", key)) for key in ("bonf", "bh")
    }
    assert rejected == {"bonf": 3, "bh": 4}


def test_the_comparison_can_fail():
    """A wrong twin: Student's pooled variance instead of Welch's is found out."""
    if not CASES:
        pytest.skip(f"no reference data at {AREA}")
    control, treatment = data_of("nsw_experimental").arms(y="re78")
    pooled = (control.cross[0, 0] + treatment.cross[0, 0]) / (control.n + treatment.n - 2)
    wrong = (pooled * (1 / control.n + 1 / treatment.n)) ** 0.5
    expected = CASES["nsw_experimental"]["expected"]["welch_re78"]["se"]
    assert wrong != pytest.approx(expected, rel=CASES["nsw_experimental"]["tolerance"]["rel"])

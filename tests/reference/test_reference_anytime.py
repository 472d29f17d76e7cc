"""Every number of shared/data/anytime/expected.json against ours, one test per case and key."""

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from experiments_dagster.stats.design.sample_ratio import (
    anytime_p_value,
    chi_square,
    sequential_log_e_value,
)
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.sequential.confidence_sequence import (
    confidence_sequence,
    mixture_sprt,
    sample_radius,
    tuning_information,
    tuning_rho2,
)

AREA = Path(__file__).parents[3] / "shared" / "data" / "anytime"
CASES = (
    {case["case"]: case for case in json.loads((AREA / "expected.json").read_text())}
    if AREA.exists()
    else {}
)
ALPHA = 0.05
# Bounds for counts, bounded and heavy-tailed data (Howard et al. 2021), which METHODS 8.8 leaves
# optional and this project does not offer.
OPTIONAL_BOUNDS = {
    "normal_log_mixture_s10_v100_2s",
    "gamma_exponential_c2_v100",
    "gamma_poisson_c2_v100",
    "beta_binomial_2s_g02_h08",
    "beta_binomial_1s_g02_h08",
    "poly_stitching_v100_vmin10_c3",
    "empirical_process_lil_1000_tmin100",
}
# What a row was computed from stands beside the results.
INPUTS = {
    "msprt": {"set", "n_per_arm", "diff", "sigma2", "tau2"},
    "acs": {"set", "n", "var", "tuning_n", "alpha"},
    "srm_seq": {"set", "counts", "theta0", "k"},
}


def mixture_case(case):
    alpha, v = case["spec"]["alpha"], case["spec"]["v_opt"]
    rho, rho_one_sided = (tuning_information(v, alpha, sides=sides) for sides in (2, 1))

    def sum_scale(g, sides):
        return v * confidence_sequence(0.0, v**-0.5, g=g, alpha=alpha, sides=sides).half_width

    return {
        "best_rho_2s_v100": rho,
        "normal_mixture_bound_2s_v100": sum_scale(rho, 2),
        "normal_mixture_bound_1s_v100": sum_scale(rho_one_sided, 1),
    }


def msprt_row(row):
    call = {"n_per_arm": row["n_per_arm"], "variance": row["sigma2"], "tau2": row["tau2"]}
    point = mixture_sprt(row["diff"], alpha=ALPHA, **call)
    return {
        "Lambda": math.exp(point.log_e_value),
        "Lambda_quad": mixture_by_quadrature(row),
        "p_always_valid_single_look": point.p_value,
        "cs_halfwidth_95": point.half_width,
    }


def mixture_by_quadrature(row):
    """The likelihood ratio averaged over the normal mixture, without its closed form."""
    variance, tau = 2 * row["sigma2"] / row["n_per_arm"], math.sqrt(row["tau2"])
    effects = np.linspace(-10 * tau, 10 * tau, 20_001)
    log_ratio = (effects * row["diff"] - effects**2 / 2) / variance - (effects / tau) ** 2 / 2
    return (
        float(np.exp(log_ratio).sum()) * (effects[1] - effects[0]) / (tau * math.sqrt(2 * math.pi))
    )


def acs_row(row):
    rho2 = tuning_rho2(row["tuning_n"], row["alpha"])
    return {
        "rho2": rho2,
        "radius": sample_radius(row["n"], row["var"], rho2=rho2, alpha=row["alpha"]),
    }


def srm_row(row):
    log_e = sequential_log_e_value(row["counts"], row["theta0"], concentrations=[row["k"]])
    return {
        "log_bayes_factor": log_e,
        "p": anytime_p_value(log_e),
        "chi2_p": chi_square(row["counts"], row["theta0"]).p_value,
    }


def growthbook_case(case):
    spec = case["spec"]
    control, treatment = (summed_arm(spec[name]) for name in ("control", "treat"))
    lift = compare_means(control, treatment).relative
    n = control.n + treatment.n
    rho2 = tuning_rho2(spec["tuning_n"], spec["alpha"])
    radius = sample_radius(n, lift.std_error**2 * n, rho2=rho2, alpha=spec["alpha"])
    g = 1 / (rho2 * lift.std_error**2 * n)
    point = confidence_sequence(lift.estimate, lift.std_error, g=g, alpha=spec["alpha"])
    return {
        "lift": lift.estimate,
        "se": lift.std_error,
        "ci": [lift.estimate - radius, lift.estimate + radius],
        "p": point.p_value,
    }


def summed_arm(numbers):
    n, mean = numbers["n"], numbers["sum"] / numbers["n"]
    return ArmMoments(
        n=n,
        columns=("y",),
        means=np.array([mean]),
        cross=np.array([[numbers["sum_squares"] - n * mean * mean]]),
    )


CHECKERS = {
    "confseq_boundaries": mixture_case,
    "msprt": lambda case: [msprt_row(row) for row in case["expected"]],
    "acs": lambda case: [acs_row(row) for row in case["expected"]],
    "srm_seq": lambda case: [srm_row(row) for row in case["expected"]],
    "growthbook_sequential_mean": growthbook_case,
}


@functools.cache
def computed(name):
    return CHECKERS[name](CASES[name])


def leaves(tree, path=()):
    """(path, value) of every number or list of numbers; rows of a list go by their index."""
    if isinstance(tree, list) and isinstance(tree[0], dict):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        yield path, tree
        return
    for key, value in tree.items():
        yield from leaves(value, (*path, key))


def is_compared(name, path):
    return path[-1] not in INPUTS.get(name, OPTIONAL_BOUNDS)


KEYS = [
    (name, path)
    for name, case in CASES.items()
    for path, _ in leaves(case["expected"])
    if is_compared(name, path)
]


def at(tree, path):
    return functools.reduce(lambda branch, key: branch[key], path, tree)


pytestmark = pytest.mark.skipif(not CASES, reason=f"no reference data at {AREA}")


@pytest.mark.parametrize(
    ("name", "path"), KEYS, ids=[f"{name}:{'.'.join(map(str, path))}" for name, path in KEYS]
)
def test_reference(name, path):
    case = CASES[name]
    tolerance = {key: case["tolerance"].get(key, 0.0) for key in ("rel", "abs")}
    expected = at(case["expected"], path)
    assert at(computed(name), path) == pytest.approx(expected, **tolerance)


def test_every_case_and_key_has_a_checker():
    assert set(CASES) == set(CHECKERS)
    for name, case in CASES.items():
        theirs = {path for path, _ in leaves(case["expected"]) if is_compared(name, path)}
        assert theirs == {path for path, _ in leaves(computed(name))}, name
    assert set(CASES["confseq_boundaries"]["expected"]) > OPTIONAL_BOUNDS
    for name, inputs in INPUTS.items():
        assert all(inputs < set(row) for row in CASES[name]["expected"])

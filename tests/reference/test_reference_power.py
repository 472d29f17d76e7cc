"""Every number of `power/expected.json`, one test each."""

import json
import math
from pathlib import Path

import pytest

from experiments_dagster.stats.design.power import anova_power, mean_power
from experiments_dagster.stats.design.power_solver import PowerDesign
from experiments_dagster.stats.design.proportion_power import proportion_power

EXPECTED = Path(__file__).parents[3] / "shared" / "data" / "power" / "expected.json"

ONE_SIDED = PowerDesign(sides=1)
BOTH_TAILS = PowerDesign(strict=True)  # as the package pwr counts


def of_proportions(p1, p2, design=None, **quantities):
    return proportion_power(baseline=p1, effect=p2 - p1, design=design, **quantities)


def of_means(design=None, **quantities):
    return mean_power(sd=1, effect=1, formula="t", design=design, **quantities)


def cohen_h(h, n):
    """Two proportions that are h apart."""
    p2 = math.sin(math.pi / 4 + h / 2) ** 2
    return of_proportions(0.5, p2, BOTH_TAILS, n_total=2 * n, formula="arcsine").power


def unequal_t():
    design = PowerDesign(shares=(90 / 150, 60 / 150), strict=True)
    return mean_power(sd=1, effect=0.6, n_total=150, formula="t", design=design).power


def evan_miller(row):
    return proportion_power(
        baseline=row["p"],
        effect=row["d"],
        power=row["power"],
        formula="baseline",
        design=PowerDesign(alpha=row["alpha"]),
    ).n_exact[0]


CHECKERS = {
    ("r_power_prop", "p50"): lambda: of_proportions(0.5, 0.75, n_total=100).power,
    ("r_power_prop", "n90"): lambda: of_proportions(0.5, 0.75, power=0.9).n_exact[0],
    ("r_power_prop", "n_1s"): lambda: of_proportions(0.05, 0.06, ONE_SIDED, power=0.8).n_exact[0],
    ("r_power_prop", "n20_25"): lambda: of_proportions(0.2, 0.25, power=0.8).n_exact[0],
    ("r_power_t", "pw"): lambda: of_means(n_total=40).power,
    ("r_power_t", "n90"): lambda: of_means(power=0.9).n_exact[0],
    ("r_power_t", "n1s"): lambda: of_means(ONE_SIDED, power=0.9).n_exact[0],
    ("cohen_pwr", "t2n"): unequal_t,
    ("cohen_pwr", "p2"): lambda: cohen_h(0.3, 80),
    ("cohen_pwr", "anova"): lambda: anova_power(groups=5, effect=0.25, power=0.8).n_exact[0],
}
ROWS = {("evan_miller", index) for index in range(3)}


def cases():
    if not EXPECTED.exists():
        pytest.skip(f"no reference data at {EXPECTED}")
    return {case["case"]: case for case in json.loads(EXPECTED.read_text())}


@pytest.mark.parametrize("key", CHECKERS, ids="-".join)
def test_reference(key):
    case = cases()[key[0]]
    assert CHECKERS[key]() == pytest.approx(
        case["expected"][key[1]], rel=case["tolerance"]["rel"], abs=0
    )


@pytest.mark.parametrize("index", sorted(index for _, index in ROWS))
def test_reference_evan_miller(index):
    case = cases()["evan_miller"]
    row = case["expected"][index]
    assert evan_miller(row) == pytest.approx(row["n"], rel=0, abs=case["tolerance"]["abs_n"])


def test_every_number_has_a_checker():
    wanted = set()
    for name, case in cases().items():
        expected = case["expected"]
        wanted |= {(name, key) for key in (expected if isinstance(expected, dict) else ())}
        wanted |= {(name, index) for index in range(len(expected)) if isinstance(expected, list)}
    assert wanted == set(CHECKERS) | ROWS

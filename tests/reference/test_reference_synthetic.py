"""Synthetic control and synthetic DiD against the published studies, pre-period error first.

The floor on predictor weights was chosen with both synthetic-control studies in view: these tests
hold the result in place, they do not confirm the floor.
"""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments_dagster.causal.series.donor_panel import Predictor, build_panel
from experiments_dagster.causal.series.donor_placebo import placebo_in_space
from experiments_dagster.causal.series.synthetic_control import (
    estimate_synthetic_control,
    synthetic_control_effect,
)
from experiments_dagster.causal.series.synthetic_did import estimate_synthetic_did

SHARED = Path(__file__).parents[3] / "shared" / "data" / "timeseries"
CHECKED = {
    "prop99_scm": {"weights", "gap_2000", "mean_gap_1989_2000", "pre_rmspe"},
    "prop99_sdid": {"sdid", "sc", "did"},
    "basque_scm": {"weights", "gap_1997", "mean_gap_1970_1997", "pre_rmspe_1960_69"},
}
PROP99_WINDOWS = [
    ("lnincome", 1980, 1988),
    ("retprice", 1980, 1988),
    ("age15to24", 1980, 1988),
    ("beer", 1984, 1988),
    ("cigsale", 1975, 1975),
    ("cigsale", 1980, 1980),
    ("cigsale", 1988, 1988),
]
SECTORS = ("agriculture", "energy", "industry", "construction", "services.venta")
SECTORS = (*SECTORS, "services.nonventa")

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason=f"no reference data at {SHARED}")


def case(name):
    cases = json.loads((SHARED / "expected.json").read_text())
    return next(case for case in cases if case["case"] == name)


def table(frame, column, units, unit):
    """One column as (steps, units), in the order of `units`."""
    return frame.sort("year").pivot(unit, index="year", values=column).select(units).to_numpy()


def one_treated(outcomes, column, n_pre):
    at = np.full(outcomes.shape[1], np.inf)
    at[column] = n_pre
    return build_panel(outcomes, treated=[column], n_pre=n_pre, treated_at=at)


def prop99():
    frame = pl.read_csv(SHARED / case("prop99_scm")["data"])
    states = sorted(frame["state"].unique())
    panel = one_treated(table(frame, "cigsale", states, "state"), states.index("California"), 19)
    predictors = [
        Predictor(
            values=table(frame, column, states, "state").astype(float),
            first=first - 1970,
            stop=last + 1 - 1970,
        )
        for column, first, last in PROP99_WINDOWS
    ]
    return panel, predictors, states


def basque():
    """The standard analysis: the two top schooling groups merged, schooling as shares."""
    frame = pl.read_csv(SHARED / case("basque_scm")["data"]).filter(pl.col("regionno") != 1)
    frame = frame.filter(pl.col("year") >= 1960)
    regions = sorted(frame["regionname"].unique())

    def values(column):
        return table(frame, column, regions, "regionname").astype(float)

    gdp = values("gdpcap")
    column = next(i for i, name in enumerate(regions) if "Basque" in name)
    schooling = [values(f"school.{level}") for level in ("illit", "prim", "med", "high")]
    schooling[-1] = schooling[-1] + values("school.post.high")
    levels = np.array([level[4:10].mean(axis=0) for level in schooling])
    predictors = [
        Predictor(values=np.broadcast_to(share, gdp.shape), first=4, stop=10)
        for share in 100 * levels / levels.sum(axis=0)
    ]
    predictors += [
        Predictor(values=values("invest"), first=4, stop=10),
        Predictor(values=gdp, first=0, stop=10),
        # Sectors are known every second year from 1961 to 1969.
        *(Predictor(values=values(f"sec.{name}"), first=1, stop=10) for name in SECTORS),
        Predictor(values=values("popdens"), first=9, stop=10),
    ]
    return one_treated(gdp, column, 10), predictors, regions


def weights_of(result, names):
    return {names[i]: w for i, w in zip(result.donors, result.weights, strict=True)}


def agree(found, published, tolerance):
    """Every published donor within the tolerance, and no other donor beyond it."""
    named = {
        next(name for name in found if name.startswith(key)): w for key, w in published.items()
    }
    return all(abs(w - named.get(name, 0.0)) <= tolerance for name, w in found.items())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_prop99_scm(seed):
    panel, predictors, states = prop99()
    reference = case("prop99_scm")
    expected, tolerance = reference["expected"], reference["tolerance"]
    result = estimate_synthetic_control(panel, predictors, seed=seed)
    assert result.pre_rmspe <= tolerance["pre_rmspe_at_most"]
    # The floor on predictor weights and a local search differ from theirs by less than 1 %.
    assert result.pre_rmspe == pytest.approx(expected["pre_rmspe"], rel=0.01)
    assert agree(weights_of(result, states), expected["weights"], tolerance["weights"])
    assert result.effect[-1] == pytest.approx(expected["gap_2000"], abs=tolerance["gap"])
    assert result.average_effect == pytest.approx(
        expected["mean_gap_1989_2000"], abs=tolerance["gap"]
    )


def test_the_bound_catches_a_search_from_one_start():
    panel, predictors, states = prop99()
    reference = case("prop99_scm")
    tolerance = reference["tolerance"]
    stuck = estimate_synthetic_control(panel, predictors, predictor_weights=np.ones(7), seed=1)
    assert stuck.pre_rmspe > tolerance["pre_rmspe_at_most"]
    assert stuck.pre_rmspe == pytest.approx(5.9, abs=0.05)
    assert weights_of(stuck, states)["Colorado"] == pytest.approx(0.625, abs=0.01)
    published = reference["expected"]["weights"]
    assert not agree(weights_of(stuck, states), published, tolerance["weights"])
    searched = estimate_synthetic_control(panel, predictors, seed=1)
    reached = [error for _, error in searched.start_rmspe]
    assert max(reached) > tolerance["pre_rmspe_at_most"] >= min(reached)
    assert searched.pre_rmspe == pytest.approx(min(reached), rel=1e-12)


def test_prop99_placebos_repeat_the_published_rank():
    # Abadie, Diamond & Hainmueller 2010: no donor's ratio exceeds California's, p = 1/39.
    panel, predictors, _ = prop99()
    fitted = estimate_synthetic_control(panel, predictors, seed=1)

    def effect_of(panel):
        return synthetic_control_effect(
            panel, predictors, predictor_weights=fitted.balance.weights, seed=1
        )

    placebo = placebo_in_space(panel, effect_of)
    assert placebo.p_value == 1 / 39
    assert placebo.ci_low < fitted.average_effect < placebo.ci_high < 0


def test_basque_scm():
    panel, predictors, regions = basque()
    reference = case("basque_scm")
    expected, tolerance = reference["expected"], reference["tolerance"]
    result = estimate_synthetic_control(panel, predictors, seed=1)
    # Published weights have three digits; the error they give may be undercut, not exceeded.
    assert result.pre_rmspe <= expected["pre_rmspe_1960_69"] * 1.001
    assert agree(weights_of(result, regions), expected["weights"], tolerance["weights"])
    assert result.effect[-1] == pytest.approx(expected["gap_1997"], abs=tolerance["gap"])
    assert result.average_effect == pytest.approx(
        expected["mean_gap_1970_1997"], abs=tolerance["gap"]
    )


@pytest.mark.parametrize("weighting", ["sdid", "sc", "did"])
def test_prop99_sdid(weighting):
    reference = case("prop99_sdid")
    frame = pl.read_csv(SHARED / reference["data"]).rename({"Year": "year"})
    states = sorted(frame["State"].unique())
    outcomes = table(frame, "PacksPerCapita", states, "State")
    panel = one_treated(outcomes, states.index("California"), 19)
    result = estimate_synthetic_did(panel, weighting=weighting)
    assert result.estimate == pytest.approx(
        reference["expected"][weighting], abs=reference["tolerance"][weighting]
    )


@pytest.mark.parametrize("name", CHECKED)
def test_no_number_of_a_case_is_left_unchecked(name):
    assert set(case(name)["expected"]) == CHECKED[name]

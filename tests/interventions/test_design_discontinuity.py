"""Studies of a cutoff: published cases, refutations with fault and clean cases, refusals."""

import dataclasses
import json
import time

import numpy as np
import pytest
from unit_studies import SHARED, make_units, read_units, units_at_a_cutoff

from experiments_dagster.config.intervention import DiscontinuityDesign
from experiments_dagster.interventions.designs.discontinuity import discontinuity_study
from experiments_dagster.interventions.study import study_document

DATA = SHARED / "timeseries"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"no reference data at {DATA}")
ROWS = (
    "jump, conventional, bias ignored",
    "jump, bias-corrected, interval too short",
    "jump, robust bias-corrected",
)
# Formula of the case: order of the study and the name of its row.
FORMULAS = {
    "mlda_all~T+a": (1, "jump between lines of one shape, equal variances"),
    "mlda_all~T*a": (1, "jump between two lines, equal variances"),
    "mlda_all~T*a+I(a**2)+T:I(a**2)": (2, "jump between two parabolas, equal variances"),
}


def study(units, *, cutoff=0.0, **settings):
    return discontinuity_study(
        units, DiscontinuityDesign(kind="discontinuity", cutoff=cutoff, **settings)
    )


def by_name(found):
    return {row.name: row for row in found.estimates}


def outcomes(found):
    return {check.name: check for check in found.refutations}


def table(found, name):
    rows = next(one for one in found.tables if one.name == name)
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]


def strict(found):
    return json.loads(json.dumps(study_document(found), allow_nan=False))


def case(name):
    cases = json.loads((DATA / "expected.json").read_text())
    return next(one for one in cases if one["case"] == name)


def senate(**columns):
    path = DATA / "rdrobust_senate.csv"
    return study(read_units(path, outcome="vote", running="margin", **columns))


def mlda(order, **columns):
    units = read_units(DATA / "mlda_drinking.csv", outcome="all", running="agecell", **columns)
    return study(units, cutoff=21.0, polynomial=order)


@needs_data
def test_the_senate_case():
    wanted, found = case("rdd_senate"), senate()
    expected, tolerance = wanted["expected"], wanted["tolerance"]
    rows = [by_name(found)[name] for name in ROWS]
    coefficients = [row.estimate for row in rows]
    assert coefficients == pytest.approx(expected["coef"], abs=tolerance["coef_abs"])
    assert [row.std_error for row in rows] == pytest.approx(expected["se"], abs=0.02)
    for row, limits in zip(rows, expected["ci"], strict=True):
        assert [row.ci_low, row.ci_high] == pytest.approx(limits, abs=tolerance["coef_abs"])
    fit = table(found, "local_fit")
    assert [row["n_within_bandwidth"] for row in fit] == expected["N_h"]
    for key, widths in zip(("bandwidth", "bias_bandwidth"), expected["bws"], strict=True):
        found_widths = [row[key] for row in fit]
        assert found_widths == pytest.approx(widths, rel=tolerance["bw_rel"])
    assert found.estimates[0].name == ROWS[2]
    # The wrong twin: the conventional interval is another one.
    assert rows[0].ci_low != pytest.approx(expected["ci"][2][0], abs=tolerance["coef_abs"])


@needs_data
def test_the_senate_claim_needs_something_fixed_before():
    found = senate()
    assert found.claim.status == "WEAK"
    assert [item.name for item in found.skipped] == ["placebo_outcome"]
    assert all(check.passed for check in found.refutations)
    full = senate(covariates=("population", "class"), placebo_outcomes=("termshouse",))
    assert full.claim.status == "SUPPORTED", full.claim
    assert {"covariate_jumps", "placebo_outcome_termshouse"} <= set(outcomes(full))


@needs_data
@pytest.mark.parametrize("formula", FORMULAS)
def test_the_drinking_age_case(formula):
    wanted = case("rdd_mlda")
    order, name = FORMULAS[formula]
    row = by_name(mlda(order))[name]
    assert [row.estimate, row.std_error] == pytest.approx(
        wanted["expected"][formula], rel=wanted["tolerance"]["rel"]
    )


@needs_data
def test_published_robust_error_and_placebo_of_the_drinking_age():
    """Mastering 'Metrics, table 4.1: 9.55 (1.83); internal causes 0.39 (0.54), 1.07 (0.80)."""
    for order, jump, error in ((1, 0.39, 0.54), (2, 1.07, 0.80)):
        found = mlda(order, placebo_outcomes=("internal",))
        (placebo,) = table(found, "placebo_outcomes")
        # Printed with two decimals; HC1 here, the table's own error there.
        assert placebo["estimate"] == pytest.approx(jump, abs=0.005)
        assert placebo["std_error"] == pytest.approx(error, abs=0.012)
        assert outcomes(found)["placebo_outcome_internal"].passed
        # Cells do not show who chose a side.
        assert found.claim.status == "WEAK"
        assert [item.name for item in found.skipped] == ["density"]
    assert found.estimates[0].std_error == pytest.approx(1.83, abs=0.005)


def test_a_clean_study_is_supported_and_covers_the_jump():
    found = study(units_at_a_cutoff())
    assert found.claim.status == "SUPPORTED", found.claim
    assert found.estimates[0].ci_low < 1 < found.estimates[0].ci_high
    assert set(outcomes(found)) == {
        *("density", "effective_rows", "mass_points", "placebo_cutoffs", "covariate_jumps"),
        *("bandwidths", "donut", "placebo_outcome_before"),
    }
    assert strict(found)["claim"]["clauses"] == []


def test_units_that_choose_their_side_are_refused():
    found = study(units_at_a_cutoff(sorting=0.6))
    assert found.claim.status == "REFUSED"
    failed = [check.name for check in found.refutations if not check.passed]
    assert "density" in failed
    # The jump itself looks as good as ever: only the density tells.
    assert found.estimates[0].ci_low > 0


def test_a_covariate_that_jumps_is_refused():
    found = study(units_at_a_cutoff(covariate_jump=2.0))
    assert found.claim.status == "REFUSED"
    assert not outcomes(found)["covariate_jumps"].passed
    units = units_at_a_cutoff()
    moved = {"before": units.placebo_outcomes["before"] + 2.0 * (units.running >= 0)}
    found = study(dataclasses.replace(units, placebo_outcomes=moved))
    assert found.claim.status == "REFUSED"
    assert not outcomes(found)["placebo_outcome_before"].passed


def test_a_jump_of_the_nearest_rows_only_is_weak():
    """Units just above the cutoff are recorded otherwise: nothing else jumps."""
    units = units_at_a_cutoff(jump=0.0)
    is_near = (units.running >= 0) & (units.running < 0.02)
    found = study(dataclasses.replace(units, outcome=units.outcome + 1.5 * is_near))
    assert not outcomes(found)["donut"].passed
    assert found.claim.status != "SUPPORTED"


def test_a_step_elsewhere_is_found_by_the_placebo_cutoffs():
    units = units_at_a_cutoff(jump=0.5)
    place = float(np.median(units.running[units.running >= 0]))
    found = study(
        dataclasses.replace(units, outcome=units.outcome + 1.0 * (units.running >= place))
    )
    assert not outcomes(found)["placebo_cutoffs"].passed
    assert found.claim.status == "REFUSED"


def test_treatment_below_turns_the_sign_only():
    units = units_at_a_cutoff()
    above, below = study(units), study(units, treated_side="below")
    for one, other in zip(above.estimates, below.estimates, strict=True):
        assert other.estimate == pytest.approx(-one.estimate, rel=1e-9)
        assert other.std_error == pytest.approx(one.std_error, rel=1e-9)
        assert (other.ci_low, other.ci_high) == pytest.approx((-one.ci_high, -one.ci_low))
    assert dict(below.facts)["treated"] == "below the cutoff"
    lines = study(units, polynomial=1), study(units, polynomial=1, treated_side="below")
    assert lines[1].estimates[0].estimate == pytest.approx(-lines[0].estimates[0].estimate)


def test_a_unit_at_the_cutoff_belongs_above():
    units = units_at_a_cutoff(n=800)
    x = np.round(units.running, 1)
    found = study(dataclasses.replace(units, running=x))
    n_above = int((x >= 0).sum())
    assert dict(found.facts)["rows from the cutoff on"].startswith(str(n_above))
    assert not outcomes(found)["mass_points"].passed


def test_a_rule_that_only_offers_treatment():
    found = study(units_at_a_cutoff(take_up=(0.2, 0.8), n=4000), is_fuzzy=True)
    effect = found.estimates[0]
    assert effect.name == "jump of the outcome per jump of the take-up, robust bias-corrected"
    assert not any("effect" in row.name for row in found.estimates)
    assert effect.ci_low < 1 < effect.ci_high
    (take_up,) = table(found, "take_up")
    assert 0.4 < take_up["jump"] < 0.8
    assert outcomes(found)["first_stage"].passed
    assert "jump of the outcome per jump of the take-up, Anderson-Rubin set" in by_name(found)
    # The jump of the outcome is the effect times the take-up, not the effect.
    assert by_name(found)["jump of the outcome, below to above"].ci_high < 1


def test_full_take_up_is_the_sharp_rule():
    units = units_at_a_cutoff()
    fuzzy = study(dataclasses.replace(units, treated=units.running >= 0), is_fuzzy=True)
    sharp = study(units)
    assert fuzzy.estimates[0].estimate == pytest.approx(sharp.estimates[0].estimate, rel=1e-9)
    assert fuzzy.estimates[0].std_error == pytest.approx(sharp.estimates[0].std_error, rel=1e-9)


def test_an_offer_that_hardly_anybody_takes_is_weak():
    found = study(units_at_a_cutoff(take_up=(0.45, 0.55)), is_fuzzy=True)
    assert not outcomes(found)["first_stage"].passed
    assert found.claim.status != "SUPPORTED"


def test_an_offer_on_the_other_side_is_said():
    units = units_at_a_cutoff(take_up=(0.2, 0.8))
    found = study(units, is_fuzzy=True, treated_side="below")
    assert any("fewer take the treatment below" in warning for warning in found.warnings)
    assert found.estimates == study(units, is_fuzzy=True).estimates


def test_nobody_takes_it_is_not_estimable():
    units = units_at_a_cutoff(take_up=(0.0, 0.0))
    found = study(units, is_fuzzy=True)
    assert found.reason == "ZERO_DENOMINATOR"
    assert strict(found)["estimates"] == []


def test_cells_are_refused_by_the_local_fit_and_not_by_the_polynomial():
    units = units_at_a_cutoff(n=60, p=0)
    found = study(units)
    assert found.reason == "N_TOO_SMALL"
    assert not outcomes(found)["effective_rows"].passed
    assert study(units, polynomial=1).reason is None


def test_a_polynomial_of_an_offer_is_not_identified():
    found = study(units_at_a_cutoff(take_up=(0.2, 0.8)), is_fuzzy=True, polynomial=1)
    assert found.reason == "NOT_IDENTIFIED"
    assert "polynomial" in found.reason_detail


def test_curvature_that_makes_the_jump_is_weak():
    """A cubic without a jump: lines see one, and parabolas another."""
    x = np.linspace(-1, 1, 81)[:-1] + 0.0125
    noise = np.tile([0.02, -0.02], 40)
    found = study(make_units(3 * x**3 - x + noise, running=x), polynomial=1)
    assert not outcomes(found)["polynomial_order"].passed
    assert not outcomes(found)["window"].passed
    assert found.claim.status == "WEAK"


def test_a_cutoff_outside_the_data_is_not_estimable():
    found = study(units_at_a_cutoff(n=300), cutoff=5.0)
    assert found.reason == "EMPTY_ARM"
    for picture in found.pictures:
        assert picture.draw(780).startswith("<svg")


def test_pictures_draw_at_both_widths():
    for found in (study(units_at_a_cutoff()), study(units_at_a_cutoff(), polynomial=2)):
        assert [one.name for one in found.pictures] == ["discontinuity", "density"]
        for picture in found.pictures:
            for width in (780, 400):
                svg = picture.draw(width)
                assert svg.startswith("<svg")
                assert "nan" not in svg


def test_the_lines_of_the_picture_meet_the_conventional_jump():
    """The picture shows the conventional fit: its ends at the cutoff are that jump apart."""
    units = units_at_a_cutoff()
    found = study(units)
    described = found.pictures[0].draw(780).split("fits at the cutoff ")[1].split("<")[0]
    below, above = (
        float(word.replace("−", "-"))
        for word in described.rstrip(".").replace(" above", "").split(" below and ")
    )
    # Three digits are written.
    assert above - below == pytest.approx(by_name(found)[ROWS[0]].estimate, abs=0.01)


def test_columns_that_are_missing_are_errors():
    units = units_at_a_cutoff(n=200)
    with pytest.raises(ValueError, match="running variable"):
        study(dataclasses.replace(units, running=None))
    with pytest.raises(ValueError, match="who was treated"):
        study(units, is_fuzzy=True)


def test_a_study_is_fast():
    units = units_at_a_cutoff(n=2500, p=10)
    start = time.process_time()
    study(units)
    assert time.process_time() - start < 3

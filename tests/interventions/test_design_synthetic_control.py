"""Donor designs as studies: what they estimate, and that each refutation fires on its fault."""

import dataclasses

import numpy as np
import pytest
from panel_studies import assert_presentable, checks, panel_of_table, rows, skipped
from scipy.stats import binom

from experiments_dagster.causal.series.donor_panel import build_panel
from experiments_dagster.causal.series.synthetic_control import estimate_synthetic_control
from experiments_dagster.causal.series.synthetic_did import estimate_synthetic_did
from experiments_dagster.config.intervention import SyntheticControlDesign
from experiments_dagster.interventions.designs.synthetic_control import donor_study

N_DONORS, N_PRE, N_POST = 24, 40, 8


def simulated(*, effect=6.0, seed=1, offset=0.0, noise=0.3):
    """Outcomes (N, T) of a treated unit that mixes three donors, and of its donors."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(3, N_PRE + N_POST)).cumsum(axis=1)
    loads = rng.dirichlet(np.ones(3), size=N_DONORS)
    donors = 50 + loads @ factors + noise * rng.normal(size=(N_DONORS, N_PRE + N_POST))
    mix = np.zeros(N_DONORS)
    mix[:3] = (0.5, 0.3, 0.2)
    treated = offset + mix @ donors + noise * rng.normal(size=N_PRE + N_POST)
    treated[N_PRE:] += effect
    return np.vstack([treated, donors])


def study_of(y, *, first=None, covariates=None, **design):
    first = np.r_[N_PRE, np.full(len(y) - 1, np.inf)] if first is None else first
    panel = panel_of_table(y, first, covariates=covariates)
    spec = {"kind": "synthetic_control", "random_starts": 0, **design}
    return donor_study(panel, SyntheticControlDesign.model_validate(spec))


@pytest.fixture(scope="module")
def clean():
    return study_of(simulated())


def test_a_known_effect_is_found_and_nothing_refutes_it(clean):
    main = clean.estimates[0]
    assert main.ci_low < 6.0 < main.ci_high
    assert main.p_value == pytest.approx(1 / (N_DONORS + 1))
    assert clean.claim.status == "SUPPORTED"
    assert all(outcome is True for outcome in checks(clean).values())
    assert {"treated_donors", "post_period_leak", "pre_fit", "placebo_in_space"} <= set(
        checks(clean)
    )
    assert {"placebo_in_time", "bias_alarm", "leave_out_donor"} <= set(checks(clean))
    assert "leave_out_last_pre_steps" in checks(clean)
    assert_presentable(clean)


def test_estimates_are_those_of_the_estimators(clean):
    y = simulated()
    panel = build_panel(
        y.T, treated=[0], n_pre=N_PRE, treated_at=np.r_[N_PRE, np.full(N_DONORS, np.inf)]
    )
    classic = estimate_synthetic_control(panel, n_random_starts=0, seed=1)
    assert clean.estimates[0].estimate == classic.average_effect
    assert clean.estimates[1].estimate == classic.effect[-1]
    did = study_of(y, method="synthetic_did").estimates[0]
    expected = estimate_synthetic_did(panel)
    assert (did.estimate, did.ci_low, did.p_value) == (
        expected.estimate,
        expected.ci_low,
        expected.p_value,
    )


@pytest.mark.parametrize(
    ("method", "n"), [("classic", 60), ("synthetic_did", 60), ("augmented", 8)]
)
def test_without_an_effect_no_more_are_claimed_than_the_level_allows(method, n):
    found = [study_of(simulated(effect=0.0, seed=seed), method=method) for seed in range(n)]
    # The upper end of the 99.9 % band of a rate of 5 %: a claim needs p below .05 and more.
    assert sum(study.claim.status == "SUPPORTED" for study in found) <= binom.ppf(0.9995, n, 0.05)
    assert all(
        study.claim.term == ("effect" if study.claim.status == "SUPPORTED" else "association")
        for study in found
    )


@pytest.mark.parametrize("method", ["synthetic_did", "augmented"])
def test_other_methods_find_it_too(method):
    study = study_of(simulated(effect=10.0), method=method)
    assert study.estimates[0].estimate == pytest.approx(10.0, abs=1.0)
    assert checks(study)["pre_fit"] is True
    assert_presentable(study)


def test_a_donor_that_is_treated_itself_ends_the_study():
    first = np.r_[N_PRE, N_PRE + 2, np.full(N_DONORS - 1, np.inf)]
    listed = study_of(simulated(), first=first, donors=["u0001", "u0002", "u0003", "u0004"])
    assert (listed.claim.status, listed.reason) == ("NOT_ESTIMABLE", "NOT_IDENTIFIED")
    assert checks(listed)["treated_donors"] == "ERROR"
    assert "u0001" in listed.claim.clauses[0]
    # Left to itself, the design leaves it out and says so.
    rest = study_of(simulated(), first=first)
    assert ("treated later", "1 units, neither treated nor donors here") in rest.facts
    assert "u0001" not in {row["donor"] for row in rows(rest, "donor_weights")}


def test_a_predictor_that_reads_what_came_after_ends_the_study():
    level = {"income": np.linspace(1, 2, N_DONORS + 1)}
    window = {"columns": ["income"], "first": 2000, "last": 2000 + N_PRE}
    study = study_of(simulated(), covariates=level, predictors=[window])
    assert checks(study)["post_period_leak"] == "ERROR"
    assert not study.estimates
    window["last"] = 2000 + N_PRE - 1
    again = study_of(simulated(), covariates=level, predictors=[window])
    assert checks(again)["post_period_leak"] is True
    assert again.estimates


def test_a_unit_outside_the_hull_of_its_donors_fits_badly():
    study = study_of(simulated(offset=60.0))
    assert checks(study)["pre_fit"] == "WARN"
    assert study.claim.status in {"WEAK", "REFUSED"}


def test_donors_that_show_as_much_refute_it():
    y = simulated(effect=2.0)
    y[4:10, N_PRE:] += np.linspace(4, 8, 6)[:, None] * np.array([1, -1, 1, -1, 1, -1])[:, None]
    study = study_of(y)
    assert checks(study)["placebo_in_space"] == "ERROR"
    assert study.claim.status == "REFUSED"
    assert study.claim.term == "association"


def test_an_effect_that_began_before_is_seen_by_what_is_held_out():
    y = simulated(effect=6.0)
    y[0, N_PRE - 3 : N_PRE] += 6.0
    assert checks(study_of(y))["leave_out_last_pre_steps"] == "WARN"


def test_a_result_that_hangs_on_one_donor_weakens():
    y = simulated(effect=0.0, noise=0.05)
    twin = 20 + np.random.default_rng(9).normal(size=N_PRE + N_POST).cumsum()
    y[0], y[1] = 0.9 * twin + 0.1 * y[2], twin
    y[0, N_PRE:] += 1.0
    assert checks(study_of(y))["leave_out_donor"] == "WARN"


def test_donors_with_gaps_are_left_out_by_name():
    y = simulated()
    y[5, 7] = np.nan
    study = study_of(y)
    assert any("u0005" in warning for warning in study.warnings)
    assert ("donors", f"{N_DONORS - 1} units that are never treated") in study.facts


def test_a_short_history_leaves_the_placebo_in_time_out_and_says_why():
    y = simulated()[:, N_PRE - 12 :]
    first = np.r_[12, np.full(N_DONORS, np.inf)]
    study = study_of(y, first=first)
    assert "N_TOO_SMALL" in skipped(study)["placebo_in_time"]


def test_few_donors_are_not_estimable():
    study = study_of(simulated()[:2], first=np.r_[N_PRE, np.inf])
    assert study.claim.status in {"NOT_ESTIMABLE", "WEAK"}
    assert study.claim.term == "association"


def test_unknown_donors_are_a_mistake():
    with pytest.raises(ValueError, match="donors nobody: the panel has no such units"):
        study_of(simulated(), donors=["nobody", "u0001"])


def test_a_unit_with_two_rows_in_a_period_is_an_error():
    panel = panel_of_table(simulated(), np.r_[N_PRE, np.full(N_DONORS, np.inf)])
    twice = dataclasses.replace(
        panel,
        outcome=np.append(panel.outcome, 99.0),
        unit=np.append(panel.unit, 0),
        period=np.append(panel.period, 3),
    )
    with pytest.raises(ValueError, match="1 row of a unit and period that is there already"):
        donor_study(twice, SyntheticControlDesign(kind="synthetic_control"))


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        ("2001-01-01", "2003-01-01", "period 2001-01-01 is a date, the panel has whole numbers"),
        (2001, "2003-01-01", "period 2003-01-01 is a date"),
        (2004, 2001, "first period 2004 is after the last, 2001"),
        (1980, 1985, "no period from 1980 to 1985; the panel has whole numbers, 2000 to 2047"),
    ],
)
def test_periods_of_a_predictor_are_those_of_the_panel(first, last, words):
    window = {"columns": ["income"], "first": first, "last": last}
    level = {"income": np.linspace(1, 2, N_DONORS + 1)}
    with pytest.raises(ValueError, match=f"predictor income: {words}"):
        study_of(simulated(), covariates=level, predictors=[window])


def test_years_are_no_periods_of_a_panel_of_dates():
    """As text 2001 would lie before 2001-01-01 and 2003 after all days of 2002."""
    first = np.r_[N_PRE, np.full(N_DONORS, np.inf)]
    panel = panel_of_table(
        simulated(), first, covariates={"income": np.linspace(1, 2, N_DONORS + 1)}
    )
    dates = tuple(f"{label}-01-01" for label in panel.labels)
    dated = dataclasses.replace(panel, labels=dates)

    def run(*moments):
        window = {"columns": ["income"], "first": moments[0], "last": moments[1]}
        spec = {"kind": "synthetic_control", "random_starts": 0, "predictors": [window]}
        return donor_study(dated, SyntheticControlDesign.model_validate(spec))

    with pytest.raises(ValueError, match="period 2001 is a whole number, the panel has dates"):
        run(2001, 2003)
    by_dates = run("2001-01-01", "2003-06-01")
    window = {"columns": ["income"], "first": 2001, "last": 2003}
    spec = {"kind": "synthetic_control", "random_starts": 0, "predictors": [window]}
    by_years = donor_study(panel, SyntheticControlDesign.model_validate(spec))
    assert by_dates.estimates == by_years.estimates


def test_a_smaller_alpha_makes_no_placebo_in_time_milder():
    """With 20 moved starts no p below 0.001 exists; what fails at 5 % still blocks."""
    y = simulated(effect=0.3)
    severities = [checks(study_of(y, alpha=alpha))["placebo_in_time"] for alpha in (0.05, 0.001)]
    assert severities == ["ERROR", "ERROR"]

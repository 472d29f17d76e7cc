"""Differences in differences as a study: numbers, refutations, who is left out, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from panel_studies import assert_presentable, checks, panel_of_table, rows, skipped, table
from scipy.stats import ttest_ind

from experiments_dagster.causal.series.difference_in_differences import difference_in_differences
from experiments_dagster.config.intervention import DidDesign
from experiments_dagster.config.study_data import PanelFile
from experiments_dagster.frames.study_tables import read_panel_file
from experiments_dagster.interventions.designs.difference_in_differences import did_study
from experiments_dagster.interventions.study_data import panel_of
from experiments_dagster.stats.calibration import rejection_band

SHARED = Path(__file__).parents[3] / "shared" / "data" / "timeseries"
DESIGN = DidDesign(kind="difference_in_differences")
ALGEBRA = 1e-9  # two ways to the same sums
PUBLISHED = 1e-5  # digits of the case


def study_of(y, first, **changes):
    return did_study(panel_of_table(y, first, **changes), DESIGN)


@pytest.mark.skipif(not SHARED.exists(), reason=f"no reference data at {SHARED}")
def test_card_and_krueger():
    source = PanelFile(
        file="card_krueger_njmin3.csv", time="d", outcome="fte", group="nj", starts=1
    )
    frame, left_out = read_panel_file(SHARED / source.file, source)
    assert left_out == {"fte is missing": 26}
    study = did_study(panel_of(frame, has_units=False, outcome_name="fte"), DESIGN)
    main = study.estimates[0]
    assert main.estimate == pytest.approx(2.753605783, rel=PUBLISHED)
    assert main.std_error == pytest.approx(1.79545081, rel=PUBLISHED)
    errors = {row["formula"]: row["std_error"] for row in rows(study, "standard_errors")}
    assert errors == pytest.approx({"hc1": 1.79545081, "ols": 1.688409131}, rel=PUBLISHED)
    treated, untreated, difference = rows(study, "cells")
    means = [treated["before"], treated["after"], untreated["before"], untreated["after"]]
    assert means == pytest.approx([20.43941, 21.02743, 23.33117, 21.16558], rel=PUBLISHED)
    assert difference["change"] == main.estimate
    cells = (treated["rows_before"], treated["rows_after"])
    assert (*cells, untreated["rows_before"], untreated["rows_after"]) == (321, 319, 77, 77)
    # Two periods cannot show parallel trends, and the interval includes 0.
    assert study.claim.status == "WEAK"
    assert skipped(study).keys() == {"pre_trend", "relative_magnitude", "placebo_period"}
    assert "one period before" in skipped(study)["pre_trend"]
    assert_presentable(study)


@pytest.mark.skipif(not SHARED.exists(), reason=f"no reference data at {SHARED}")
def test_one_state_of_thirty_nine():
    """Proposition 99: the published -27.3 of Arkhangelsky et al. 2021, and p from all 39 states."""
    source = PanelFile(
        file="california_prop99_sdid.csv",
        unit="State",
        time="Year",
        outcome="PacksPerCapita",
        is_treated="treated",
    )
    frame, _ = read_panel_file(SHARED / source.file, source)
    study = did_study(panel_of(frame, has_units=True, outcome_name="packs"), DESIGN)
    (main,) = study.estimates
    assert main.estimate == pytest.approx(-27.349111, abs=1e-4)  # tolerance of the case
    table = np.loadtxt(SHARED / source.file, delimiter=",", skiprows=1, usecols=2).reshape(31, 39)
    change = table[19:].mean(axis=0) - table[:19].mean(axis=0)
    gaps = change - (change.sum() - change) / 38
    assert main.p_value == pytest.approx((np.abs(gaps) >= np.abs(gaps[-1]) - ALGEBRA).mean())
    assert study.claim.status == "WEAK"


def test_a_balanced_panel_is_the_interaction_over_all_rows_clustered_by_unit():
    y, first = table(effect=1.0)
    n, n_periods = y.shape
    stacked = difference_in_differences(
        y.ravel(),
        np.repeat(np.isfinite(first), n_periods),
        np.tile(np.arange(n_periods) >= 5, n),
        clusters=np.repeat(np.arange(n), n_periods),
        seed=1,
    ).difference
    main = study_of(y, first).estimates[0]
    for name in ("estimate", "std_error", "ci_low", "ci_high", "p_value"):
        assert getattr(main, name) == pytest.approx(getattr(stacked, name), rel=ALGEBRA), name
    # With a row per unit and side CR2 is Welch's error of the changes.
    change = y[:, 5:].mean(axis=1) - y[:, :5].mean(axis=1)
    welch = ttest_ind(change[:30], change[30:], equal_var=False)
    assert main.estimate / main.std_error == pytest.approx(welch.statistic, rel=ALGEBRA)


def test_a_large_effect_with_parallel_trends_is_supported():
    y, first = table(100, 120, effect=12.0)
    study = study_of(y, first)
    assert checks(study) == {
        "pre_trend": True,
        "relative_magnitude": True,
        "placebo_period_2002": True,
        "cluster_count": True,
    }
    assert study.claim.status == "SUPPORTED"
    assert dict(study.facts)["units"] == "100 treated, 120 untreated"
    assert [picture.name for picture in study.pictures] == ["paths", "event_study"]
    assert_presentable(study)


def test_a_trend_before_the_start_blocks_the_claim():
    y, first = table(100, 120, slope=1.0)
    study = study_of(y, first)
    assert checks(study)["pre_trend"] == "ERROR"
    assert checks(study)["placebo_period_2002"] == "ERROR"
    assert study.claim.status == "REFUSED"
    assert study.claim.term == "association"


def test_a_smaller_alpha_switches_no_refutation_off():
    y, first = table(100, 120, slope=0.1, effect=12.0, seed=6)
    for design in (DidDesign(kind="difference_in_differences", alpha=a) for a in (0.05, 0.001)):
        study = did_study(panel_of_table(y, first), design)
        failed = {check.name: check.value for check in study.refutations if not check.passed}
        assert study.claim.status == "REFUSED"
        assert 0.001 < failed["placebo_period_2002"] < 0.05


def test_two_periods_leave_the_claim_weak_however_clear_the_difference():
    y, first = table(100, 120, n_periods=2, start=1, effect=12.0)
    study = study_of(y, first)
    assert study.estimates[0].p_value < 1e-6
    assert study.claim.status == "WEAK"
    assert skipped(study).keys() == {"pre_trend", "relative_magnitude", "placebo_period"}


def test_units_that_miss_a_period_are_left_out_and_counted():
    y, first = table(20, 20, effect=1.0)
    y[0, 5:] = np.nan
    y[20:23, 2] = np.nan
    study = study_of(y, first)
    kept = [i for i in range(40) if i not in (0, 20, 21, 22)]
    alone = study_of(y[kept], first[kept])
    assert study.estimates[:2] == alone.estimates
    assert rows(study, "cells") == rows(alone, "cells")
    assert rows(study, "group_means") == rows(alone, "group_means")
    (warning,) = study.warnings
    assert warning.startswith(
        "left out for a missing period: 1 of 20 treated and 3 of 20 untreated units"
    )
    assert study.estimates[2].name == "with units that miss periods"
    assert checks(study).keys() - checks(alone).keys() == {"estimators_agree_incomplete_units"}
    # A unit without a value on one side adds nothing to compare with.
    y[20:23] = y[23:26]
    assert study_of(y, first).estimates[1:] == study_of(y[1:], first[1:]).estimates[1:]


def test_units_that_come_late_do_not_move_the_means():
    """Treated units of a high level come late; all rows stacked would call that an effect."""
    y, first = table(40, 40, effect=0.0, seed=3)
    y[:20] += 50
    y[:20, :4] = np.nan
    stacked = ~np.isnan(y)
    naive = difference_in_differences(
        y[stacked],
        np.repeat(np.isfinite(first), 8).reshape(y.shape)[stacked],
        np.tile(np.arange(8) >= 5, 80).reshape(y.shape)[stacked],
        clusters=np.repeat(np.arange(80), 8).reshape(y.shape)[stacked],
        seed=1,
    ).difference
    main = study_of(y, first).estimates[0]
    assert naive.ci_low > 5
    assert main.ci_low < 0 < main.ci_high


def test_an_estimate_that_hangs_on_who_is_complete_is_weak():
    y, first = table(60, 60, effect=4.0)
    y[:20, 5:] += 20
    y[:20, 0] = np.nan
    name = "estimators_agree_incomplete_units"
    assert checks(study_of(y, first))[name] == "WARN"
    y[:20, 5:] -= 20
    assert checks(study_of(y, first))[name] is True
    y[:20, 0] = 10
    assert name not in checks(study_of(y, first))


@pytest.mark.parametrize(
    ("n_treated", "method"), [(6, "wild cluster bootstrap"), (2, "randomisation")]
)
def test_few_units_take_a_test_made_for_them(n_treated, method):
    y, first = table(n_treated, 30, effect=3.0)
    study = study_of(y, first)
    (main,) = study.estimates
    assert method in main.method
    # The clustered error of so few is shown as a contrast and yields no interval.
    errors = {row["formula"]: row["is_used"] for row in rows(study, "standard_errors")}
    assert errors.pop("cr2") is False
    assert sum(errors.values()) == 1
    assert checks(study)["cluster_count"] == (True if n_treated == 6 else "WARN")
    assert study.warnings == ("no relative effect: too few units",)


def test_one_treated_unit_has_an_estimate_and_no_leads():
    y, first = table(1, 30, effect=9.0)
    study = study_of(y, first)
    assert study.estimates[0].std_error > 0
    assert "need 2" in skipped(study)["pre_trend"]
    assert study.claim.status == "WEAK"


def test_a_limit_that_does_not_exist_is_absent_with_a_reason():
    y, first = table(1, 20, effect=1.0, seed=2)
    main = study_of(y, first).estimates[0]
    assert (main.ci_low is None or main.ci_high is None) == (main.reason is not None)


def test_rows_without_units_are_compared_as_they_are():
    rng = np.random.default_rng(4)
    n = 900
    y = np.full((n, 6), np.nan)
    period, treated = rng.integers(0, 6, n), rng.random(n) < 0.5
    y[np.arange(n), period] = rng.normal(size=n) + 2.0 * (treated & (period >= 4))
    study = study_of(y, np.where(treated, 4, np.inf), has_units=False)
    main = study.estimates[0]
    assert main.method.endswith("HC1 errors of independent rows")
    assert abs(main.estimate - 2.0) < 3 * main.std_error
    assert checks(study) == {"placebo_period_2002": True}
    assert "no unit is seen twice" in skipped(study)["pre_trend"]
    assert study.claim.status == "WEAK"
    assert_presentable(study)


def test_covariates_that_explain_the_difference_are_shown_beside_it():
    rng = np.random.default_rng(5)
    y, first = table(150, 150, n_periods=4, start=2, effect=0.0)
    age = rng.normal(size=300) + np.isfinite(first)
    y[:, 2:] += 3 * age[:, None]  # older units change more, and more of them are treated
    age[0] = np.nan
    study = study_of(y, first, covariates={"age": age})
    raw, *_, adjusted = study.estimates
    assert raw.ci_low > 1
    assert adjusted.name == "with covariates"
    assert abs(adjusted.estimate) < 4 * adjusted.std_error
    assert checks(study)["estimators_agree_covariates"] == "WARN"
    assert study.warnings == (
        "left out where covariates are used: 1 unit without a value of age before the start",
    )
    noise = {"age": rng.normal(size=300)}
    y[:, 2:] += 5 * np.isfinite(first)[:, None]
    assert checks(study_of(y, first, covariates=noise))["estimators_agree_covariates"] is True


def test_covariates_are_read_before_the_start_only():
    y, first = table(50, 50, effect=2.0)
    age = np.random.default_rng(6).normal(size=100)
    panel = panel_of_table(y, first, covariates={"age": age})
    leaked = np.where(panel.period >= 5, panel.outcome, panel.covariates["age"])
    panel.covariates["age"][:] = leaked
    found = did_study(panel, DESIGN).estimates[-1]
    expected = study_of(y, first, covariates={"age": age}).estimates[-1]
    assert found.name == "with covariates"
    assert found.estimate == pytest.approx(expected.estimate, rel=ALGEBRA)


@pytest.mark.parametrize(
    ("first", "reason", "words"),
    [
        ([np.inf] * 6, "EMPTY_ARM", "treated units"),
        ([9, 9, 9, np.inf, np.inf, np.inf], "EMPTY_ARM", "treated units"),
        ([2] * 6, "EMPTY_ARM", "untreated units"),
        ([0, 0, 0, np.inf, np.inf, np.inf], "N_TOO_SMALL", "first one, 2000"),
        ([2, 2, 3, np.inf, np.inf, np.inf], "NOT_IDENTIFIED", "2 periods: 2002, 2003"),
    ],
)
def test_panels_without_a_comparison_are_refused_with_the_reason(first, reason, words):
    y, _ = table(3, 3, n_periods=4, start=2)
    study = study_of(y, first)
    assert (study.estimates, study.reason) == ((), reason)
    assert words in study.reason_detail
    assert study.claim.status == "NOT_ESTIMABLE"
    assert_presentable(study)


def test_nobody_seen_throughout_is_refused():
    y, first = table(5, 5, n_periods=2, start=1)
    y[::2, 0] = np.nan
    y[1::2, 1] = np.nan
    study = study_of(y, first)
    assert study.reason == "EMPTY_ARM"
    assert "5 of 5 treated and 5 of 5 untreated" in study.warnings[0]


def test_a_unit_with_two_rows_in_a_period_is_an_error():
    y, first = table(5, 5, n_periods=2, start=1)
    panel = panel_of_table(y, first)
    panel.period[1] = 0
    with pytest.raises(ValueError, match="1 row of a unit and period that is there already"):
        did_study(panel, DESIGN)


def test_the_order_of_units_does_not_matter_and_a_level_changes_nothing():
    y, first = table(effect=1.0)
    main = study_of(y, first).estimates[0]
    order = np.random.default_rng(1).permutation(len(y))
    moved = study_of(1e6 + y[order], first[order]).estimates[0]
    assert moved.estimate == pytest.approx(main.estimate, rel=1e-7)  # 1e6 costs nine digits
    assert moved.std_error == pytest.approx(main.std_error, rel=1e-7)


def test_the_interval_covers_and_no_null_panel_is_supported_beyond_its_level():
    """600 panels without effect, clustered noise: the interval, and the claim that rests on it."""
    n_runs, missed, supported = 600, 0, 0
    for seed in range(n_runs):
        rng = np.random.default_rng(seed)
        y, first = table(15, 20, n_periods=4, start=2, seed=seed)
        y += 2 * rng.normal(size=(35, 1)) * (np.arange(4) >= 2)
        study = study_of(y, first)
        main = study.estimates[0]
        missed += not main.ci_low <= 0 <= main.ci_high
        supported += study.claim.status == "SUPPORTED"
    low, high = rejection_band(0.05, n_runs)
    assert low <= missed / n_runs <= high
    assert supported / n_runs <= high

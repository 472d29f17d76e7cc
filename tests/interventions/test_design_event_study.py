"""The event study as a study: effects by period, leads, sensitivity, what is left out."""

import numpy as np
import pytest
from panel_studies import assert_presentable, checks, panel_of_table, rows, skipped, table

from experiments_dagster.config.intervention import DidDesign, EventStudyDesign
from experiments_dagster.interventions.designs.difference_in_differences import did_study
from experiments_dagster.interventions.designs.event_study import event_study

DESIGN = EventStudyDesign(kind="event_study")
ALGEBRA = 1e-9  # two ways to the same sums


def study_of(y, first, **changes):
    return event_study(panel_of_table(y, first, **changes), DESIGN)


def test_effects_are_differences_of_mean_changes_since_the_last_period_before():
    y, first = table(effect=2.0)
    treated = np.isfinite(first)
    change = y - y[:, [4]]
    expected = change[treated].mean(axis=0) - change[~treated].mean(axis=0)
    study = study_of(y, first)
    found = rows(study, "period_effects")
    assert [row["event_time"] for row in found] == [-5, -4, -3, -2, 0, 1, 2]
    assert [row["period"] for row in found] == [str(t) for t in range(2000, 2008) if t != 2004]
    actual = [row["estimate"] for row in found]
    np.testing.assert_allclose(actual, np.delete(expected, 4), rtol=0, atol=ALGEBRA)
    assert study.estimates[0].estimate == pytest.approx(expected[5:].mean(), rel=ALGEBRA)
    for row in found:
        assert row["band_low"] < row["ci_low"] < row["estimate"] < row["ci_high"] < row["band_high"]
    means = rows(study, "group_means")
    assert means[3]["treated"] == pytest.approx(y[treated, 3].mean(), rel=ALGEBRA)
    assert [row["n_untreated"] for row in means] == [40] * 8
    assert_presentable(study)


def test_the_last_lead_is_the_two_by_two_of_its_periods():
    y, first = table(effect=2.0)
    study = study_of(y[:, 4:6], np.where(np.isfinite(first), 1, np.inf))
    panel = panel_of_table(y[:, 4:6], np.where(np.isfinite(first), 1, np.inf))
    other = did_study(panel, DidDesign(kind="difference_in_differences"))
    for name in ("estimate", "std_error", "p_value"):
        expected = getattr(other.estimates[0], name)
        assert getattr(study.estimates[0], name) == pytest.approx(expected, rel=ALGEBRA)
    assert skipped(study).keys() == {"pre_trend", "relative_magnitude", "placebo_period"}
    assert study.claim.status == "WEAK"
    assert "sensitivity" not in {item.name for item in study.tables}


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
    (test,) = rows(study, "pre_trend")
    assert test["leads"] == 4
    assert test["p_value"] > 0.05
    # A straight trend that made this effect would not have gone unseen; the one that could have
    # adds less than the effect.
    assert test["power_at_effect"] > 0.99
    assert test["bias_of_detectable"] < study.estimates[0].estimate
    bounds = rows(study, "sensitivity")
    assert [row["magnitude"] for row in bounds] == [0.5, 1.0, 2.0]
    widths = [row["ci_high"] - row["ci_low"] for row in bounds]
    assert widths == sorted(widths)


def test_parallel_trends_not_rejected_are_not_shown():
    """A clear difference whose leads are noisy: not refuted, and not supported either."""
    y, first = table(60, 60, effect=1.0)
    study = study_of(y, first)
    assert study.estimates[0].p_value < 0.001
    assert checks(study)["pre_trend"] is True
    assert checks(study)["relative_magnitude"] == "WARN"
    assert study.claim.status == "WEAK"


def test_a_trend_before_the_start_blocks_the_claim():
    y, first = table(100, 120, slope=1.0)
    study = study_of(y, first)
    assert study.estimates[0].ci_low > 0
    assert checks(study)["pre_trend"] == "ERROR"
    assert checks(study)["placebo_period_2002"] == "ERROR"
    assert study.claim.status == "REFUSED"


def test_units_with_a_gap_are_left_out_and_counted_by_group():
    y, first = table(20, 25, effect=1.0)
    y[[0, 3], 2] = np.nan
    y[30, 7] = np.nan
    study = study_of(y, first)
    kept = np.delete(np.arange(45), [0, 3, 30])
    alone = study_of(y[kept], first[kept])
    assert study.estimates == alone.estimates
    assert rows(study, "group_means") == rows(alone, "group_means")
    (warning,) = study.warnings
    assert warning.startswith(
        "left out for a missing period: 2 of 20 treated and 1 of 25 untreated units"
    )
    assert dict(study.facts)["unit-periods without a value"] == "3 (0.833%)"
    assert alone.warnings == ()


def test_few_units_weaken_the_claim():
    y, first = table(5, 40, effect=12.0)
    assert checks(study_of(y, first))["cluster_count"] == "WARN"


@pytest.mark.parametrize(
    ("n_treated", "start", "reason"),
    [(1, 3, "N_TOO_SMALL"), (5, 0, "N_TOO_SMALL"), (0, 3, "EMPTY_ARM"), (10, 3, "EMPTY_ARM")],
)
def test_what_cannot_be_estimated_says_why(n_treated, start, reason):
    y, _ = table(5, 5, n_periods=6, start=3)
    study = study_of(y, np.where(np.arange(10) < n_treated, start, np.inf))
    assert (study.estimates, study.reason) == ((), reason)
    assert reason in study.reason_detail
    assert_presentable(study)


def test_several_starts_belong_to_another_design():
    y, first = table(6, 6)
    first[0] = 3
    study = study_of(y, first)
    assert study.reason == "NOT_IDENTIFIED"
    assert "2003, 2005; use the design staggered" in study.reason_detail


def test_covariates_that_explain_the_difference_are_shown_beside_it():
    rng = np.random.default_rng(8)
    y, first = table(150, 150, n_periods=6, start=3)
    size = rng.normal(size=300) + np.isfinite(first)
    y[:, 3:] += 3 * size[:, None]
    study = study_of(y, first, covariates={"size": size})
    raw, adjusted = study.estimates
    assert raw.ci_low > 1
    assert abs(adjusted.estimate) < 4 * adjusted.std_error
    assert checks(study)["estimators_agree_covariates"] == "WARN"
    # A covariate that is constant cannot adjust anything: said, not ignored.
    flat = study_of(y, first, covariates={"size": np.ones(300)})
    assert len(flat.estimates) == 1
    assert "SINGULAR_DESIGN" in skipped(flat)["estimators_agree_covariates"]


def test_the_level_reaches_interval_band_and_tests():
    y, first = table(effect=1.0)
    wide = event_study(panel_of_table(y, first), EventStudyDesign(kind="event_study", alpha=0.005))
    assert wide.estimates[0].confidence_level == 0.995
    assert wide.estimates[0].ci_low < study_of(y, first).estimates[0].ci_low
    pre_trend = next(check for check in wide.refutations if check.name == "pre_trend")
    # Of the claim alone: what tries to refute it keeps 5 %.
    assert pre_trend.threshold == 0.05

"""Staggered adoption as a study: averages, leads, the two-way contrast, who is left out."""

import numpy as np
import pytest
from panel_studies import assert_presentable, checks, panel_of_table, rows, skipped

from experiments_dagster.config.intervention import DidDesign, StaggeredDesign
from experiments_dagster.interventions.designs.difference_in_differences import did_study
from experiments_dagster.interventions.designs.staggered import staggered_study
from experiments_dagster.reporting.study_sections import called

NEVER = StaggeredDesign(kind="staggered")
NOT_YET = StaggeredDesign(kind="staggered", control="not_yet_treated")
ALGEBRA = 1e-9  # two ways to the same sums
STARTS = (3, 5, 6)


def table(*, n=60, n_periods=9, n_never=60, grows=False, noise=1.0, seed=0):
    """`n` units per start, effect g of the cohort treated from g on, or growing with time."""
    rng = np.random.default_rng(seed)
    first = np.repeat([*map(float, STARTS), np.inf], [n] * len(STARTS) + [n_never])
    since = np.arange(n_periods) - first[:, None]
    y = rng.normal(size=(len(first), 1)) + rng.normal(size=n_periods)
    y = y + noise * rng.normal(size=(len(first), n_periods))
    size = 2.0 * (since + 1) if grows else np.where(np.isfinite(first), first, 0)[:, None]
    return y + np.where(since >= 0, size, 0.0), first


def study_of(y, first, design=NEVER, **changes):
    return staggered_study(panel_of_table(y, first, **changes), design)


def truth():
    """Averages of an effect of g by cohort, treated in 9 − g of 9 periods, equal sizes."""
    cells = [(g, t) for g in STARTS for t in range(9) if t >= g]
    by_period = {t: [g for g, period in cells if period == t] for t in range(9)}
    by_lag = {e: [g for g, t in cells if t - g == e] for e in range(9)}
    return {
        "average effect": np.mean([g for g, _ in cells]),
        "average effect by cohort": np.mean(STARTS),
        "average effect by time since the start": np.mean(
            [np.mean(g) for g in by_lag.values() if g]
        ),
        "average effect by calendar period": np.mean([np.mean(g) for g in by_period.values() if g]),
    }


@pytest.mark.parametrize("design", [NEVER, NOT_YET])
def test_all_averages_find_a_known_effect_that_differs_by_cohort(design):
    study = study_of(*table(noise=1e-6), design)
    found = {estimate.name: estimate.estimate for estimate in study.estimates}
    # Noise of 1e-6 in differences of means.
    assert found == pytest.approx(truth(), abs=1e-5)
    cohorts = {row["cohort"]: row["estimate"] for row in rows(study, "cohort_effects")}
    assert cohorts == pytest.approx({"2003": 3, "2005": 5, "2006": 6}, abs=1e-5)
    assert all(
        row["estimate"]
        == pytest.approx(float(row["cohort"]) - 2000 if row["is_post"] else 0, abs=1e-5)
        for row in rows(study, "cells")
    )
    assert_presentable(study)


def test_intervals_cover_the_truth_and_all_tables_are_there():
    study = study_of(*table())
    for estimate in study.estimates:
        value = truth()[estimate.name]
        assert abs(estimate.estimate - value) < 4 * estimate.std_error, estimate.name
    dynamic = rows(study, "dynamic_effects")
    assert [row["event_time"] for row in dynamic] == [-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5]
    assert [row["n_units"] for row in rows(study, "cohort_effects")] == [60, 60, 60]
    assert [row["period"] for row in rows(study, "calendar_effects")] == [
        str(t) for t in range(2003, 2009)
    ]
    assert len(rows(study, "cells")) == 3 * 8
    assert study.warnings == ()


def test_one_cohort_is_the_two_by_two():
    y, first = table()
    kept = (first == 3) | np.isinf(first)
    y, first = y[kept][:, 2:4], np.where(first[kept] == 3, 1, np.inf)
    main = study_of(y, first).estimates[0]
    design = DidDesign(kind="difference_in_differences")
    other = did_study(panel_of_table(y, first), design).estimates[0]
    assert main.estimate == pytest.approx(other.estimate, rel=ALGEBRA)
    assert main.std_error == pytest.approx(other.std_error, rel=ALGEBRA)


def test_the_two_way_coefficient_is_a_contrast_and_no_estimate():
    """Effects grow with time: units treated early are bad controls, so it even has the wrong sign
    for the late ones and lies far below every average."""
    y, first = table(n_never=5, grows=True, noise=0.1)
    study = study_of(y, first)
    (contrast,) = rows(study, "two_way_contrast")
    treated = np.arange(9) >= first[:, None]
    unit, time = np.repeat(np.arange(len(y)), 9), np.tile(np.arange(9), len(y))
    design = np.column_stack(
        [
            treated.ravel(),
            *(unit == i for i in range(len(y))),
            *(time == t for t in range(1, 9)),
        ]
    ).astype(float)
    coefficient = np.linalg.lstsq(design, y.ravel(), rcond=None)[0][0]
    assert contrast["coefficient"] == pytest.approx(coefficient, abs=1e-6)  # lstsq of 185 dummies
    assert contrast["negative_weight_share"] > 0.05
    assert contrast["negative_cells"] > 0
    assert all(estimate.estimate > contrast["coefficient"] + 1 for estimate in study.estimates)
    assert all("two-way" not in estimate.method for estimate in study.estimates)


def test_without_different_starts_the_contrast_has_no_negative_weight():
    y, first = table()
    kept = (first == 3) | np.isinf(first)
    (contrast,) = rows(study_of(y[kept], first[kept]), "two_way_contrast")
    assert contrast["negative_weight_share"] == 0
    assert contrast["negative_cells"] == 0


def test_units_treated_throughout_are_left_out_and_counted():
    y, first = table()
    early = np.r_[y, y[:7] + 100]
    study = study_of(early, np.r_[first, np.zeros(7)])
    assert study.estimates == study_of(y, first).estimates
    (warning,) = study.warnings
    assert warning.startswith("left out: 7 units treated from the first period, 2000, on")


def test_units_with_a_gap_are_left_out_and_counted():
    y, first = table()
    kept = np.arange(len(y)) > 0
    y[0, 4] = np.nan
    study = study_of(y, first)
    assert study.estimates == study_of(y[kept], first[kept]).estimates
    assert "1 of 180 treated and 0 of 60 untreated" in study.warnings[0]


def test_without_never_treated_the_not_yet_treated_are_offered():
    y, first = table(n_never=0)
    refused = study_of(y, first)
    assert refused.reason == "EMPTY_ARM"
    assert "not yet treated may be the controls" in refused.reason_detail
    study = study_of(y, first, NOT_YET)
    truth_of = {row["cohort"]: row["estimate"] for row in rows(study, "cohort_effects")}
    assert truth_of.keys() == {"2003", "2005"}  # the last cohort has no controls left
    assert {row["reason"] for row in rows(study, "missing_cells")} == {"EMPTY_ARM"}
    assert study.warnings[0].endswith("cells have no estimate and are in no average")
    assert_presentable(study)


def test_a_trend_of_the_treated_blocks_the_claim_and_a_clean_one_does_not():
    y, first = table(n_periods=9)
    clean = study_of(y, first)
    assert checks(clean) == {
        "pre_trend": True,
        "relative_magnitude": True,
        "placebo_period_2001": True,
        "cluster_count": True,
    }
    assert clean.claim.status == "SUPPORTED"
    # Trends that differ after the start as much as noise did before it undo the sign.
    noisy = study_of(*table(noise=4.0))
    assert noisy.estimates[0].ci_low > 0
    assert checks(noisy)["relative_magnitude"] == "WARN"
    assert noisy.claim.status == "WEAK"
    assert [row["excludes_zero"] for row in rows(noisy, "sensitivity")][1:] == [False, False]
    drifting = study_of(y + np.isfinite(first)[:, None] * np.arange(9), first)
    assert checks(drifting)["pre_trend"] == "ERROR"
    assert checks(drifting)["placebo_period_2001"] == "ERROR"
    assert drifting.claim.status == "REFUSED"


def test_one_period_before_the_first_start_leaves_the_leads_to_later_cohorts():
    y, first = table()
    study = study_of(y[:, 2:], first - 2)
    assert "need 2" in skipped(study)["placebo_period"]
    assert checks(study)["pre_trend"] is True
    alone = study_of(y[:, 2:4], np.where(first == 3, 1, np.inf))
    assert "pre_trend" not in {name for name, passed in checks(alone).items() if passed is True}


def test_few_controls_weaken_the_claim():
    y, first = table(n_never=6)
    study = study_of(y, first)
    assert checks(study)["cluster_count"] == "WARN"
    assert any("too short below 10" in warning for warning in study.warnings)
    # With units not treated yet the thinnest comparison counts, here the last.
    assert checks(study_of(y, first, NOT_YET))["cluster_count"] == "WARN"


def test_covariates_make_unlike_groups_comparable():
    rng = np.random.default_rng(3)
    y, first = table(n=150, n_never=250)
    size = rng.normal(size=len(first)) + np.isfinite(first)
    y = y + size[:, None] * np.arange(9)
    raw = study_of(y, first)
    study = study_of(y, first, covariates={"size": size})
    assert checks(raw)["pre_trend"] == "ERROR"
    assert checks(study)["pre_trend"] is True
    assert abs(study.estimates[0].estimate - truth()["average effect"]) < 4 * (
        study.estimates[0].std_error
    )
    size[0] = np.nan
    assert study_of(y, first, covariates={"size": size}).warnings == (
        "left out where covariates are used: 1 unit without a value of size before the start",
    )


@pytest.mark.parametrize(
    ("first", "reason"),
    [([np.inf] * 6, "EMPTY_ARM"), ([0, 0, 0] + [np.inf] * 3, "EMPTY_ARM"), ([12] * 6, "EMPTY_ARM")],
)
def test_nobody_who_starts_is_refused(first, reason):
    y = np.random.default_rng(1).normal(size=(6, 5))
    study = study_of(y, first)
    assert (study.estimates, study.reason) == ((), reason)
    assert_presentable(study)


def test_a_unit_with_two_rows_in_a_period_is_an_error():
    panel = panel_of_table(*table())
    panel.period[1] = 0
    with pytest.raises(ValueError, match="there already"):
        staggered_study(panel, NEVER)


def test_nothing_drawn_or_noted_says_more_than_the_claim():
    study = study_of(*table(noise=4.0))
    assert study.claim.term == "association"
    for picture in study.pictures:
        assert "effect" not in picture.draw(780) + picture.caption
    note = next(item.note for item in study.tables if item.name == "two_way_contrast")
    assert called(note, study.claim) == note
    assert "two-way fixed-effects regression" in note

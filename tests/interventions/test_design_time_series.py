"""The time-series design as a study: each refutation fires on its fault, a clean case is silent."""

import datetime as dt
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from experiments_dagster.causal.series.impact import estimate_impact
from experiments_dagster.config.intervention import EconomicsSpec, TimeSeriesSpec
from experiments_dagster.interventions.designs.time_series import time_series_study
from experiments_dagster.interventions.series_data import SeriesData
from experiments_dagster.interventions.study import study_document
from experiments_dagster.storage.atomic import canonical_json

FIRST = dt.date(2024, 1, 1)
DAYS = {"daily": 1, "weekly": 7}


def make_spec(n_pre, n_post, *, frequency="weekly", **design):
    step = dt.timedelta(days=DAYS[frequency])
    start = FIRST + n_pre * step
    day = dt.timedelta(days=1)
    return TimeSeriesSpec.model_validate(
        {
            "schema_version": 1,
            "owner": "team:growth",
            "description": "Spring campaign",
            "series": {
                "file": "a.csv", "date": "d", "outcome": "spend", "frequency": frequency,
            },
            "pre": {"start": FIRST, "end": start - day},
            "post": {"start": start, "end": start + n_post * step - day},
            "design": {"kind": "time_series", "draws": 1000, **design},
        }
    )  # fmt: skip


def make_data(observed, covariates, n_pre, *, frequency="weekly"):
    step = dt.timedelta(days=DAYS[frequency])
    return SeriesData(
        name="spend",
        dates=tuple(FIRST + k * step for k in range(len(observed))),
        observed=observed,
        covariates=covariates,
        covariate_names=tuple(f"x{k}" for k in range(covariates.shape[1])),
        n_pre=n_pre,
        treated="spend in a.csv",
        controls="untouched columns",
        display_unit="USD",
    )


def make_series(*, n_pre=80, n_post=6, p=2, lift=12.0, seed=3):
    """Covariates that explain most of the outcome, none of them all; independent noise."""
    rng = np.random.default_rng(seed)
    covariates = rng.normal(size=(n_pre + n_post, p))
    observed = 200 + covariates @ np.full(p, 2.0) + rng.normal(size=n_pre + n_post)
    observed[n_pre:] += lift
    return observed, covariates


def study_of(observed, covariates, n_pre=80, *, frequency="weekly", **design):
    data = make_data(observed, covariates, n_pre, frequency=frequency)
    spec = make_spec(n_pre, len(observed) - n_pre, frequency=frequency, **design)
    return time_series_study(data, spec)


def failed(study):
    return {check.name: check.severity for check in study.refutations if not check.passed}


def table(study, name):
    found = next(item for item in study.tables if item.name == name)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


@pytest.fixture(scope="module")
def clean():
    return study_of(*make_series())


def test_a_clean_case_is_supported_and_every_refutation_ran(clean):
    assert clean.claim.status == "SUPPORTED"
    assert clean.claim.clauses == ()
    assert clean.skipped == ()
    assert {check.name for check in clean.refutations} == {
        *("placebo_in_time", "bias_alarm", "post_period_leak", "pre_fit"),
        *("leave_one_covariate_out", "covariate_breaks", "drop_last_pre", "post_length"),
    }
    total, average, relative = clean.estimates
    # The truth is 6 weeks of 12; the interval covers it and excludes 0.
    assert total.ci_low < 72 < total.ci_high
    assert average.estimate == pytest.approx(total.estimate / 6, rel=1e-12)
    assert relative.unit.startswith("relative")
    assert 0 < relative.ci_low < relative.estimate < relative.ci_high < 0.2


def test_nothing_happened_is_refused_by_the_placebo():
    study = study_of(*make_series(lift=0.0))
    assert failed(study)["placebo_in_time"] == "ERROR"
    assert study.claim.status == "REFUSED"
    assert study.claim.term == "association"


def test_a_trend_that_the_model_lags_sounds_the_bias_alarm():
    observed, _ = make_series(p=0, lift=40.0)
    study = study_of(observed + 1e-2 * np.arange(86.0) ** 2, np.empty((86, 0)))
    assert failed(study)["bias_alarm"] == "ERROR"
    assert study.claim.status == "REFUSED"


def test_a_counterfactual_that_explains_little_weakens():
    observed, _ = make_series()
    noise = np.random.default_rng(0).normal(size=(86, 1))
    study = study_of(observed, noise)
    assert failed(study) == {"pre_fit": "WARN"}
    assert study.claim.status == "WEAK"


def test_a_jump_just_before_weakens_fit_and_last_steps():
    observed, covariates = make_series(lift=20.0)
    observed[77:80] += 18.0
    names = failed(study_of(observed, covariates))
    assert {"pre_fit", "drop_last_pre"} <= names.keys()


def test_a_covariate_that_breaks_and_makes_the_effect_weakens_twice():
    observed, covariates = make_series(lift=0.0)
    covariates[80:, 0] -= 6.0
    study = study_of(observed, covariates)
    assert {"leave_one_covariate_out", "covariate_breaks"} <= failed(study).keys()
    rows = {row["covariate"]: row for row in table(study, "covariate_breaks")}
    assert rows["x0"]["p_adjusted"] < 0.05 < rows["x1"]["p_adjusted"]
    assert rows["x0"]["ci_low"] < -6.0 < rows["x0"]["ci_high"]


def test_a_forecast_longer_than_its_history_weakens():
    study = study_of(*make_series(n_pre=30, n_post=31), n_pre=30)
    assert failed(study)["post_length"] == "WARN"
    # No placebo of that length fits either, and what was not tried keeps the claim weak.
    assert {item.name for item in study.skipped} == {"placebo_in_time", "bias_alarm"}
    assert study.claim.status == "WEAK"


def test_the_published_prior_is_held_against_the_calibrated_one():
    """On a random walk without effect its interval excludes 0; the calibrated one does not."""
    rng = np.random.default_rng(1)
    walk, covariates = np.cumsum(rng.normal(size=88)), rng.normal(size=(88, 1))
    observed = 200 + walk + 2 * covariates[:, 0] + 0.3 * rng.normal(size=88)
    study = study_of(observed, covariates, prior="published")
    assert study.estimates[0].ci_high < 0
    assert failed(study)["calibrated_prior"] == "WARN"
    assert any("published prior" in text for text in study.warnings)
    assert "nearly fixed level" in study.method
    default = study_of(observed, covariates)
    assert default.estimates[0].ci_low < 0 < default.estimates[0].ci_high
    assert "calibrated_prior" not in {check.name for check in default.refutations}


def test_the_published_prior_passes_where_both_agree(clean):
    study = study_of(*make_series(), prior="published")
    assert "calibrated_prior" in {check.name for check in study.refutations if check.passed}
    assert study.estimates[0].estimate == pytest.approx(clean.estimates[0].estimate, rel=0.02)


def test_without_placebos_the_claim_stays_weak():
    study = study_of(*make_series(), placebos=0)
    assert failed(study) == {}
    assert study.claim.status == "WEAK"
    assert any("design.placebos is 0" in clause for clause in study.claim.clauses)


def test_without_covariates_their_checks_are_not_needed():
    observed, covariates = make_series(p=0)
    study = study_of(observed, covariates)
    assert [item.needed for item in study.skipped] == [False, False]
    assert not any("covariate" in clause for clause in study.claim.clauses)
    assert not any("covariates are not touched" in words for words in study.assumptions)


def test_too_short_a_history_is_not_estimable():
    study = study_of(*make_series(n_pre=12), n_pre=12)
    assert study.claim.status == "NOT_ESTIMABLE"
    assert (study.reason, study.estimates, study.pictures) == ("N_TOO_SMALL", (), ())
    assert "12 observed points, need 20" in study.reason_detail
    assert dict(study.facts)["Before"].endswith("12 weeks")


def test_a_missing_covariate_is_not_estimable_and_named():
    observed, covariates = make_series()
    covariates[3, 1] = np.nan
    study = study_of(observed, covariates)
    assert study.reason == "NON_FINITE_INPUT"
    assert "column 1 at step 3" in study.reason_detail


def test_missing_outcomes_are_counted_and_shown_as_absent():
    observed, covariates = make_series()
    observed[[5, 82]] = np.nan
    study = study_of(observed, covariates)
    assert dict(study.facts)["Missing values"] == "2"
    rows = table(study, "series")[::-1]
    assert rows[5]["y"] is None
    assert rows[82]["effect"] is None
    assert rows[82]["y_hat"] is not None


def test_estimates_are_those_of_the_method():
    observed, covariates = make_series()
    study = study_of(observed, covariates, seed=7)
    direct = estimate_impact(observed, covariates, 80, min_pre_points=20, n_draws=1000, seed=7)
    assert study.estimates[0].estimate == direct.total.estimate
    assert (study.estimates[0].ci_low, study.estimates[0].ci_high) == (
        direct.total.ci_low,
        direct.total.ci_high,
    )
    assert study.estimates[2].estimate == direct.relative.estimate
    # Refits do without paths; on fewer data they are the method all the same.
    refits = {row["left_out"]: row["total_effect"] for row in table(study, "sensitivity")}
    without = estimate_impact(observed, covariates[:, 1:], 80, min_pre_points=20, seed=7)
    assert refits["x0"] == pytest.approx(without.total.estimate, rel=1e-9)  # rounding only


def test_the_unit_of_the_outcome_changes_no_claim(clean):
    observed, covariates = make_series()
    study = study_of(1000 * observed, covariates)
    for before, after in zip(clean.estimates[:2], study.estimates[:2], strict=True):
        # Standardised columns differ in their last digits only.
        assert after.estimate == pytest.approx(1000 * before.estimate, rel=1e-6)
        assert after.p_value == before.p_value
    assert study.claim == clean.claim


def test_what_happens_after_does_not_move_the_counterfactual(clean):
    observed, covariates = make_series(lift=500.0)
    study = study_of(observed, covariates)
    expected = [row["y_hat"] for row in table(study, "series")]
    assert expected == [row["y_hat"] for row in table(clean, "series")]


def test_tables_agree_with_the_estimates(clean):
    rows = table(clean, "series")
    assert len(rows) == 86
    assert rows[0]["date"] > rows[-1]["date"]
    total = clean.estimates[0]
    assert rows[0]["cum_effect"] == pytest.approx(total.estimate, rel=1e-9)
    assert (rows[0]["cum_lower"], rows[0]["cum_upper"]) == (total.ci_low, total.ci_high)
    assert all(row["effect"] is None for row in rows[6:])
    placebos = table(clean, "placebos")
    assert [row["is_real"] for row in placebos] == [True] + [False] * 20
    assert placebos[0]["start"] == "2025-07-14"
    largest = max(abs(row["average_effect"]) for row in placebos[1:])
    assert placebos[0]["average_effect"] > largest
    fit = {row["measure"]: row["value"] for row in table(clean, "pre_fit")}
    assert fit["back-test: total inside its interval"] is True


def test_a_document_of_it_is_strict_json_and_repeats(clean):
    again = study_of(*make_series())
    assert canonical_json(study_document(again)) == canonical_json(study_document(clean))
    assert b"NaN" not in canonical_json(study_document(clean))


def test_the_picture_is_drawn_for_page_and_phone(clean):
    (picture,) = clean.pictures
    for width in (780, 400):
        svg = picture.draw(width)
        assert ET.fromstring(svg).attrib["viewBox"].split()[2] == str(width)


def test_days_have_their_season():
    rng = np.random.default_rng(1)
    weekday = np.tile([0.0, 0.0, 0.0, 0.0, 5.0, 20.0, 15.0], 20)[:135]
    observed = 100 + weekday + rng.normal(size=135)
    observed[120:] += 6.0
    study = study_of(observed, np.empty((135, 0)), 120, frequency="daily")
    assert dict(study.facts)["Season"] == "modelled"
    total = study.estimates[0]
    assert total.ci_low < 90 < total.ci_high
    assert study.estimates[1].name == "average effect per day"


def test_shapes_that_do_not_fit_are_a_mistake():
    observed, covariates = make_series()
    data = make_data(observed, covariates, 80)
    with pytest.raises(ValueError, match=r"spend: 86 dates, 1 names"):
        replace(data, covariate_names=("only",))


def make_null(seed):
    """Errors of AR(.5) around two covariates; nothing happens after 64 of 70 weeks."""
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(70, 2)), rng.normal(size=70)
    for t in range(1, 70):
        noise[t] += 0.5 * noise[t - 1]
    return 200 + x @ np.full(2, 2.0) + noise, x


def test_null_series_are_hardly_ever_supported():
    # 13 of 100 is the upper 99.9 % limit of 5 %; the study may stay far below it.
    supported, naive = 0, 0
    for seed in range(1, 101):
        y, x = make_null(seed)
        supported += study_of(y, x, 64, seed=seed).claim.status == "SUPPORTED"
        design = np.column_stack([np.ones(70), x, np.arange(70) >= 64])
        fit, residual, *_ = np.linalg.lstsq(design, y, rcond=None)
        variance = residual[0] / 66 * np.linalg.inv(design.T @ design)[3, 3]
        naive += abs(fit[3]) / np.sqrt(variance) > 2
    assert supported <= 13
    # A regression that takes the errors for independent leaves the band: the cases are hard.
    assert naive > 13


def test_large_effects_are_mostly_supported():
    supported = 0
    for seed in range(1, 31):
        y, x = make_null(seed)
        y[64:] += 20.0
        supported += study_of(y, x, 64, seed=seed).claim.status == "SUPPORTED"
    assert supported >= 20


def test_money_comes_from_the_same_draws_as_the_total():
    observed, covariates = make_series()
    spec = make_spec(80, 6).model_copy(
        update={
            "economics": EconomicsSpec(margin_rate=0.4, campaign_spend=10.0, incremental_cost=6.0)
        }
    )
    study = time_series_study(make_data(observed, covariates, 80), spec)
    found = {item.name: item for item in study.estimates}
    total = found["total effect"]
    assert found["gross profit"].estimate == pytest.approx(0.4 * total.estimate)
    assert found["gross profit"].ci_low == pytest.approx(0.4 * total.ci_low)
    net, ratio = found["net profit"], found["return on investment"]
    assert net.ci_high == pytest.approx(0.4 * total.ci_high - 16)
    assert ratio.estimate == pytest.approx(net.estimate / 16)
    assert ratio.unit == "ratio"
    free = spec.model_copy(update={"economics": EconomicsSpec(margin_rate=0.4)})
    names = [e.name for e in time_series_study(make_data(observed, covariates, 80), free).estimates]
    assert "return on investment" not in names

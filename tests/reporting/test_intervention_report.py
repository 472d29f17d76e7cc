"""The report of an intervention: an effect only where a placebo could have refuted it."""

import dataclasses
import datetime as dt

import numpy as np
import pytest
from report_factories import Page
from test_experiment_report import assert_safe

from experiments_dagster.causal.series.impact import estimate_impact
from experiments_dagster.causal.series.records import PlaceboResult
from experiments_dagster.config.intervention import InterventionSpec
from experiments_dagster.reporting.intervention_report import (
    InterventionRecord,
    impact_points,
    is_supported,
    render_intervention_report,
)

N_PRE, N = 60, 70


@pytest.fixture(scope="module")
def result():
    y, x = _series()
    return estimate_impact(y, x[:, None], N_PRE, min_pre_points=20, seed=1)


def _series():
    rng = np.random.default_rng(5)  # a series whose back-test is covered; 1 in 20 is not
    x = rng.normal(size=N)
    y = 200 + 10 * x + rng.normal(size=N)
    y[N_PRE:] += 40
    return y, x


def make_placebo(**changes):
    effects = np.linspace(-2.0, 2.0, 24)
    placebo = PlaceboResult(
        effect=40.0, positions=np.arange(24), effects=effects, p_value=1 / 25, sign_p_value=1.0,
        is_one_sided=False, n_disjoint=24, warnings=(),
    )  # fmt: skip
    return dataclasses.replace(placebo, **changes)


def make_record(result, *, text="Campaign 18", **changes):
    spec = InterventionSpec.model_validate(
        {
            "schema_version": 1,
            "owner": "team:grocery",
            "description": text,
            "series": {
                "metric": "spend",
                "frequency": "daily",
                "treated": {"source": "exposures", "experiment": "c18"},
            },
            "pre": {"start": dt.date(2026, 1, 1), "end": dt.date(2026, 3, 1)},
            "post": {"start": dt.date(2026, 3, 2), "end": dt.date(2026, 3, 11)},
            "design": {"kind": "time_series"},
        }
    )
    y, _ = _series()
    record = InterventionRecord(
        slug="campaign_18",
        spec=spec,
        dates=tuple(dt.date(2026, 1, 1) + dt.timedelta(days=k) for k in range(N)),
        observed=tuple(float(value) for value in y),
        result=result,
        treated=text,
        controls="other households",
        display_unit="USD",
        as_of="2026-03-12T00:00:00+00:00",
        cutoff=9,
        config_hash="0123456789ab",
        code_version="0.1.0",
        inputs={"a.parquet": "ff"},
    )
    return dataclasses.replace(record, **changes)


def test_without_a_placebo_it_is_an_association(result):
    page = Page(render_intervention_report(make_record(result, placebo_reason="N_TOO_SMALL")))
    assert_safe(page)
    assert "Estimated association: spend was above its counterfactual." in page.text
    assert "Estimated effect" not in page.text
    assert "too few units" in page.text


@pytest.mark.parametrize(
    "changes",
    [
        {"p_value": 0.2},
        {"is_one_sided": True},
        {"sign_p_value": 0.001},
        {"n_disjoint": 3},
    ],
)
def test_a_placebo_that_does_not_support_it_leaves_an_association(result, changes):
    record = make_record(result, placebo=make_placebo(**changes))
    assert not is_supported(record)
    assert "Estimated effect" not in Page(render_intervention_report(record)).text


def test_a_placebo_that_could_have_refuted_it_allows_the_word_effect(result):
    record = make_record(result, placebo=make_placebo())
    assert record.result.diagnostics.backtest.covers_total
    page = Page(render_intervention_report(record))
    assert "Estimated effect: spend was above its counterfactual." in page.text
    assert result.total.estimate in {value for value, _ in page.data}


def test_no_difference_is_not_called_one(result):
    record = make_record(dataclasses.replace(result, p_value=0.4), placebo=make_placebo())
    page = Page(render_intervention_report(record))
    assert "No difference from the counterfactual is shown." in page.text


def test_not_estimable_shows_its_reason():
    page = Page(render_intervention_report(make_record(None, reason="ZERO_VARIANCE")))
    assert "The variance is zero." in page.text
    assert "NOT ESTIMABLE" in page.text
    assert not page.data


def test_hostile_text_shows_as_typed(result):
    payload = '"><img src=x onerror=alert(1)><script>x</script>'
    page = Page(render_intervention_report(make_record(result, text=payload)))
    assert_safe(page)
    assert payload in page.text


def test_points_follow_the_record(result):
    record = make_record(result)
    gap = dataclasses.replace(
        record, observed=(None, *record.observed[1:3], float("nan"), *record.observed[4:])
    )
    points = impact_points(gap)
    assert points[0].effect is None
    assert points[3].observed is None
    assert points[N_PRE].effect == pytest.approx(float(result.effect[0]))
    assert points[-1].cumulative == pytest.approx(result.total.estimate)
    assert points[N_PRE - 1].cumulative is None


def test_dates_must_fit_the_estimate(result):
    with pytest.raises(ValueError, match="69 dates"):
        make_record(result, dates=(dt.date(2026, 1, 1),) * 69, observed=(1.0,) * 69)

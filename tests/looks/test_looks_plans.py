"""What a plan can ask for beyond one metric and CUPED, from the file to the recorded look."""

import datetime as dt
import json

import numpy as np
import polars as pl
import pytest
from factories import PLATFORM, incoming, land_now, make_project, manifest_of
from scipy import stats

from experiments_dagster.cli.plan import make_plan, plan_document
from experiments_dagster.config.errors import ConfigError
from experiments_dagster.config.project import load_project
from experiments_dagster.frames.history import read_history
from experiments_dagster.looks.calendar import start_of_day
from experiments_dagster.looks.plan import PlanChangedError, check_plan
from experiments_dagster.looks.planning import plan_report
from experiments_dagster.looks.publish import publish_results
from experiments_dagster.looks.reproduce import reproduce
from experiments_dagster.looks.sequential import normal_score
from experiments_dagster.looks.take import open_ledger, take_look
from experiments_dagster.stats.methods.units.clustered import compare_clustered
from experiments_dagster.storage.errors import DataDamagedError
from experiments_dagster.storage.layout import Layout

DEVICES = ("app", "desktop", "mobile")
WITH_PROPERTIES = PLATFORM.replace(
    "experiment: experiment, variant: variant}",
    "experiment: experiment, variant: variant}\n"
    "        properties: {device: device, household: household}",
)
METRICS = """
    schema_version: 1
    metrics:
      spend: {kind: mean, event: order, window_days: 7}
      orders: {kind: count, event: order, window_days: 7}
      basket:
        kind: ratio
        numerator: {event: order}
        denominator: {event: order, aggregate: count}
        window_days: 7
      order_p90: {kind: quantile, event: order, quantile: 0.9, window_days: 7}
      spend_p50: {kind: quantile, event: order, quantile: 0.5, of: units, window_days: 7}
      slow: {kind: mean, event: order, window_days: 28}
      running: {kind: mean, event: order, window_days: 28, cohorts: open_ended}
      running_basket:
        kind: ratio
        cohorts: open_ended
        numerator: {event: order}
        denominator: {event: order, aggregate: count}
        window_days: 28
"""
PLAN = """
    schema_version: 1
    owner: team:growth
    hypothesis: {{primary: "More spend"}}
    variants: {{control: 0.5, treatment: 0.5}}
    salt: a-salt-of-its-own
    window: {{start: 2026-03-02, end: 2026-03-30}}
    metrics:
      primary: {{metric: {primary}, minimum_effect: 0.02}}
      {metrics}
    {top}
    plan:
      mde: 0.05
      estimator: {estimator}
      looks: {{schedule: weekly, design: {{kind: group_sequential, planned: 4{design}}}}}
      {plan}
"""
LOOK_DAYS = [dt.date(2026, 3, 16) + dt.timedelta(days=7 * k) for k in range(4)]


def plan_text(
    primary="spend",
    *,
    metrics="secondary: []",
    top="",
    estimator="{kind: cuped, covariate_days: 14}",
    design="",
    plan="",
):
    return PLAN.format(
        primary=primary, metrics=metrics, top=top, estimator=estimator, design=design, plan=plan
    )


def shop(n_users=1200, lift=0.15, seed=5, *, by_household=False):
    """Orders of users with lasting differences, a device and a household of four."""
    rng = np.random.default_rng(seed)
    users = np.array([f"u{k:05d}" for k in range(n_users)])
    household = np.arange(n_users) // 4
    coin = rng.random(n_users // 4 + 1) < 0.5
    is_treated = coin[household] if by_household else rng.random(n_users) < 0.5
    first = dt.datetime(2026, 3, 2, 6, tzinfo=dt.UTC)
    entered = [first + dt.timedelta(hours=float(h)) for h in rng.uniform(0, 27 * 24, n_users)]
    exposures = pl.DataFrame(
        {
            "user": users,
            "at": entered,
            "variant": np.where(is_treated, "treatment", "control"),
            "experiment": "trial",
            "device": rng.choice(DEVICES, n_users),
            "household": [f"h{k}" for k in household],
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )
    taste = rng.gamma(2.0, 0.5, n_users)
    low, high = -40 * 24.0, 60 * 24.0
    counts = rng.poisson(taste * 0.5 * (high - low) / 24)
    who = np.repeat(np.arange(n_users), counts)
    hours = rng.uniform(low, high, len(who))
    at = [first + dt.timedelta(hours=float(h)) for h in hours]
    is_after = np.array([a >= entered[w] for a, w in zip(at, who, strict=True)])
    amount = rng.lognormal(3, 0.5, len(who)) * np.where(is_after & is_treated[who], 1 + lift, 1)
    events = pl.DataFrame(
        {
            "user": users[who],
            "at": at,
            "event": "order",
            "id": [f"e{k}" for k in range(len(who))],
            "amount": np.round(amount, 2),
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )
    return events, exposures


class Trial:
    def __init__(self, folder, text, *, land=True, **settings):
        self.project = make_project(folder, platform=WITH_PROPERTIES, metrics=METRICS, trial=text)
        self.experiment = self.project.experiments["trial"]
        self.events, self.exposures = shop(**settings)
        if land:
            incoming(self.project, "events", "all", self.events)
            incoming(self.project, "exposures", "all", self.exposures)
            land_now(self.project)

    def look(self, day):
        as_of = start_of_day(self.experiment, day)
        return take_look(self.project, manifest_of(self.project), self.experiment, as_of=as_of).look

    def looks(self):
        return [self.look(day) for day in LOOK_DAYS]


def test_two_success_metrics_share_alpha_and_either_ships(tmp_path):
    text = plan_text("orders", metrics="success: [spend]\n      secondary: [basket]")
    trial = Trial(tmp_path, text)
    looks = trial.looks()
    last = looks[-1]
    assert {(b.metric, b.alpha) for b in last.boundaries} == {("orders", 0.025), ("spend", 0.025)}
    assert all(b.alpha_spent == pytest.approx(0.025) for b in last.boundaries)
    assert last.verdict == "SHIP"
    assert last.reason.startswith("spend improved")
    assert {row.metric for row in last.anytime} == {"orders", "spend"}
    secondary = [e for e in last.effects if e.role == "secondary" and e.is_adjusted]
    assert [e.p_adjusted for e in secondary if not e.is_relative] == [secondary[0].p_value]
    assert secondary[0].correction == "bh"


def test_a_quantile_of_events_is_that_of_the_closed_windows(tmp_path):
    text = plan_text("order_p90", metrics="secondary: [spend_p50]", estimator="{kind: unadjusted}")
    trial = Trial(tmp_path, text)
    last = trial.looks()[-1]
    row = last.effect("order_p90", "treatment", "difference", adjusted=False)
    assert row.estimand == "quantile_difference"
    rows = trial.events.join(trial.exposures.rename({"at": "exposed_at"}), on="user").filter(
        pl.col("at") >= pl.col("exposed_at"),
        pl.col("at") < pl.col("exposed_at") + pl.duration(days=7),
    )
    expected = {
        arm: np.quantile(rows.filter(pl.col("variant") == arm)["amount"], 0.9)
        for arm in ("control", "treatment")
    }
    assert row.control_mean == pytest.approx(expected["control"], rel=1e-12)
    assert row.estimate == pytest.approx(expected["treatment"] - expected["control"], rel=1e-9)
    units = last.effect("spend_p50", "treatment", "difference", adjusted=False)
    totals = trial.exposures.join(
        rows.group_by("user").agg(pl.col("amount").sum()), on="user", how="left"
    ).with_columns(pl.col("amount").fill_null(0.0))
    medians = [
        np.quantile(totals.filter(pl.col("variant") == arm)["amount"], 0.5)
        for arm in ("control", "treatment")
    ]
    assert units.estimate == pytest.approx(medians[1] - medians[0], rel=1e-9)


def test_segments_are_estimated_corrected_and_compared(tmp_path):
    trial = Trial(tmp_path, plan_text(top="segments: [device]"))
    last = trial.looks()[-1]
    levels = {row.level: row for row in last.segments if not row.is_relative}
    assert set(levels) == set(DEVICES)
    assert sum(row.n_control + row.n_treatment for row in levels.values()) == last.n_mature["spend"]
    p = [levels[level].p_value for level in DEVICES]
    adjusted = stats.false_discovery_control(p, method="bh")
    assert [levels[level].p_adjusted for level in DEVICES] == pytest.approx(adjusted, rel=1e-9)
    (test,) = last.segment_tests
    assert test.degrees_of_freedom == 2
    assert {row.level for row in test.levels} == set(DEVICES)


@pytest.mark.parametrize(
    ("estimator", "top", "method"),
    [
        ("{kind: post_stratified}", "stratify_by: [device]", "post_stratified"),
        ("{kind: pooled_theta, covariate_days: 14}", "", "cuped_pooled_theta"),
        ("{kind: cuped, covariate_days: 14, categories: [device], predict: true}", "", "lin"),
        ("{kind: cuped, covariate_days: 14, variance: hc3}", "", "lin"),
    ],
)
def test_estimators_of_the_plan(tmp_path, estimator, top, method):
    trial = Trial(tmp_path, plan_text(estimator=estimator, top=top), n_users=800)
    look = trial.look(LOOK_DAYS[-1])
    row = look.effect("spend", "treatment", "difference", adjusted=True)
    plain = look.effect("spend", "treatment", "difference", adjusted=False)
    assert (row.status, row.method) == ("ok", method)
    assert abs(row.estimate - plain.estimate) < 4 * plain.std_error
    if "predict" in estimator:
        assert row.std_error < 0.9 * plain.std_error


def test_clusters_are_the_units_of_analysis(tmp_path):
    text = plan_text(estimator="{kind: unadjusted}", plan="cluster: household")
    trial = Trial(tmp_path, text, by_household=True)
    look = trial.look(LOOK_DAYS[-1])
    row = look.effect("spend", "treatment", "difference", adjusted=False)
    assert row.method == "cluster_ols"
    assert row.n_control + row.n_treatment == trial.exposures["household"].n_unique()


def test_futility_stops_an_empty_idea_before_the_end(tmp_path):
    text = plan_text(
        design=", futility: {spending: pocock}", estimator="{kind: cuped, covariate_days: 14}"
    )
    trial = Trial(tmp_path, text, lift=-0.04, n_users=3000)
    looks = trial.looks()
    first = next(look for look in looks if any(b.is_futile for b in look.boundaries))
    assert first.verdict == "DO_NOT_SHIP"
    assert not first.is_planned_end
    bounds = [look.boundary("spend", "treatment") for look in looks]
    beta = [bound.beta_spent for bound in bounds if bound and bound.beta_spent is not None]
    assert beta == sorted(beta)
    assert beta[-1] <= 0.2 + 1e-9
    assert not any(bounds[k].futility_bound for k in range(len(bounds)) if looks[k].is_planned_end)
    assert all(b.futility_bound < b.critical_value for b in bounds if b and b.futility_bound)


def test_sensitivity_rows_decide_nothing_and_name_their_estimand(tmp_path):
    methods = "[log1p, trimmed, mann_whitney, bootstrap, permutation]"
    trial = Trial(tmp_path, plan_text(plan=f"sensitivity: {methods}"), n_users=600)
    look = trial.look(LOOK_DAYS[-1])
    by_method = {row.method: row for row in look.sensitivity}
    assert len(by_method) == 5
    assert {row.status for row in look.sensitivity} == {"ok"}
    assert {row.estimand for row in look.sensitivity} == {
        "difference", "log_mean_difference", "trimmed_mean_difference",
        "probability_of_superiority",
    }  # fmt: skip
    assert look.boundary("spend", "treatment") is not None


def test_trust_novelty_and_the_safety_monitor_stand_beside_the_result(tmp_path):
    trial = Trial(tmp_path, plan_text())
    looks = trial.looks()
    (row,) = looks[-1].trust
    lift = looks[-1].effect("spend", "treatment", "relative_difference", adjusted=True)
    weight = 0.05**2 / (0.05**2 + lift.std_error**2)
    assert row.shrunk_estimate == pytest.approx(weight * lift.estimate, rel=1e-12)
    assert 0 < row.false_positive_risk_low < row.false_positive_risk_high < 1
    assert [len(look.novelty) for look in looks] == [0, 0, 0, 1]
    (novelty,) = looks[-1].novelty
    plain = looks[-1].effect("spend", "treatment", "difference", adjusted=False)
    assert sum(novelty.effects) == pytest.approx(plain.estimate, rel=1e-9)
    assert {row.metric for row in looks[-1].deterioration} == {"spend"}
    assert all(row.crossed == "none" for row in looks[-1].deterioration)


def test_harm_is_seen_by_the_safety_monitor(tmp_path):
    text = plan_text("orders", metrics="guardrails: [{metric: spend, margin: 0.9}]")
    trial = Trial(tmp_path, text, lift=-0.5, n_users=2500)
    last = trial.looks()[-1]
    assert [row.metric for row in last.deterioration if row.crossed == "undesired"] == ["spend"]
    assert last.verdict == "DO_NOT_SHIP"
    assert "spend got worse (safety monitor)" in last.reason


@pytest.mark.parametrize(
    ("primary", "estimator"),
    [
        ("running", "{kind: cuped, covariate_days: 14}"),
        ("running", "{kind: unadjusted}"),
        ("running_basket", "{kind: unadjusted}"),
    ],
)
def test_open_ended_metrics_count_everybody_and_are_linked_by_their_scores(
    tmp_path, primary, estimator
):
    text = plan_text(
        primary, estimator=estimator, metrics="guardrails: [{metric: basket, margin: 0.2}]"
    )
    trial = Trial(tmp_path, text, n_users=800)
    looks = trial.looks()
    for look, day in zip(looks, LOOK_DAYS, strict=True):
        as_of = start_of_day(trial.experiment, day)
        entered = trial.exposures.filter(pl.col("at") < as_of)
        assert look.n_mature[primary] == entered.height
        row = look.boundary(primary, "treatment")
        assert row.critical_value is None or 1.9 < row.critical_value < 9
    spent = [look.boundary(primary, "treatment").alpha_spent for look in looks]
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(0.05)
    ledger = open_ledger(manifest_of(trial.project), trial.experiment)
    publish_results(ledger, looks[-1])
    again = reproduce(trial.project, manifest_of(trial.project), looks[-1].look_id)
    assert again.differences == ()
    if primary == "running" and "unadjusted" in estimator:
        rows = trial.events.join(trial.exposures.rename({"at": "exposed_at"}), on="user").filter(
            pl.col("at") >= pl.col("exposed_at"),
            pl.col("at") < start_of_day(trial.experiment, LOOK_DAYS[0]),
        )
        total = rows["amount"].sum() / looks[0].n_mature[primary]
        row = looks[0].effect(primary, "treatment", "difference", adjusted=False)
        mean = (row.n_control * row.control_mean + row.n_treatment * row.treatment_mean) / looks[
            0
        ].n_mature[primary]
        assert mean == pytest.approx(total, rel=1e-9)


def test_lost_scores_stop_the_next_look_of_an_open_ended_metric(tmp_path):
    trial = Trial(tmp_path, plan_text("running"), n_users=400)
    trial.look(LOOK_DAYS[0])
    folder = Layout(trial.project.storage).results("scores", "trial")
    for path in folder.glob("*.parquet"):
        path.chmod(0o644)
        path.write_bytes(b"gone")
    with pytest.raises(DataDamagedError, match=r"is not what trial\.1\.1 recorded"):
        trial.look(LOOK_DAYS[1])


def test_a_plan_from_history_uses_the_plans_own_estimator(tmp_path):
    text = plan_text(metrics="guardrails: [{metric: basket, margin: 0.1}]")
    trial = Trial(tmp_path, text, n_users=3000)
    history = read_history(trial.project, manifest_of(trial.project), trial.experiment)
    report = plan_report(trial.experiment, history)
    assert report.primary.variance_reduction > 0.3
    assert report.primary.sd < report.primary.sd_unadjusted
    assert report.looks[-1].date == LOOK_DAYS[-1]
    assert report.rule is not None
    assert 0 < report.rule.ship[0] <= report.profile[-1].power + 0.02
    # Without history of the outcome, by hand: units seen in the accrual days.
    start = dt.datetime(2026, 3, 2, tzinfo=dt.UTC) - dt.timedelta(hours=1)
    before = trial.events.filter(
        pl.col("at") < start, pl.col("at") >= start - dt.timedelta(days=28)
    )
    assert history.accrual[-1] == before["user"].n_unique()
    fractions = [look.information_fraction for look in report.looks]
    assert fractions == sorted(fractions)


def test_a_plan_proposes_mondays_clear_of_avoided_periods(tmp_path):
    trial = Trial(tmp_path, plan_text(), n_users=300)
    path = trial.project.folder / "configs" / "platform.yaml"
    avoided = 'avoid: [{first: "03-01", last: "03-20", reason: spring sale}]'
    path.write_text(f"{path.read_text().rstrip()}\n{avoided}\n")
    project = load_project(trial.project.folder)
    experiment = project.experiments[trial.experiment.slug]
    report = make_plan(project, manifest_of(project), experiment)
    assert report.periods_met == ("spring sale",)
    assert [str(found.start) for found in report.starts] == [
        "2026-03-23",
        "2026-03-30",
        "2026-04-06",
    ]
    assert report.starts[0].reason == "first Monday clear of spring sale"
    assert plan_document(report)["starts"][0]["start"] == "2026-03-23"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"estimator": "{kind: post_stratified}"}, "post_stratified needs `stratify_by`"),
        ({"plan": "cluster: household"}, "clustered randomisation needs"),
        ({"top": "segments: [colour]"}, "property 'colour' is not mapped"),
        (
            {"design": ", futility: {}", "metrics": "success: [orders]"},
            "futility is judged on one success metric",
        ),
        ({"design": ", parameter: 2.0"}, "spending obrien_fleming takes none"),
        ({"design": ", spending: hwang_shih_decani, parameter: -800.0"}, "need -50 to 50"),
        ({"metrics": "guardrails: [{metric: basket, margin: 5}]"}, "a share below 1"),
        ({"primary": "running", "design": ", futility: {}"}, "over complete cohorts"),
        ({"design": ", futility: {}", "plan": "power: 0.02"}, "must be above alpha"),
        (
            {
                "primary": "spend_p50",
                "estimator": "{kind: unadjusted}",
                "plan": "cluster: household",
            },
            "has no quantiles",
        ),
        ({"primary": "basket", "plan": "sensitivity: [log1p]"}, "compare one value per unit"),
        (
            {"primary": "basket", "estimator": "{kind: cuped, variance: hc3}"},
            "hc3 is for means",
        ),
        ({"metrics": "success: [spend]"}, "metric 'spend' is listed 2 times"),
        ({"metrics": "success: [nothing]"}, "unknown metric 'nothing'"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_with_its_rule(tmp_path, change, rule):
    with pytest.raises(ConfigError, match=rule):
        Trial(tmp_path, plan_text(**change), land=False, n_users=10)


def test_an_option_that_the_old_plan_did_not_know_is_no_change(tmp_path):
    trial = Trial(tmp_path, plan_text(), n_users=200)
    trial.look(LOOK_DAYS[0])
    ledger = open_ledger(manifest_of(trial.project), trial.experiment)
    document = json.loads(json.dumps(ledger.plan["document"]))
    for key in ("success", "stratify_by"):
        del document[key]
    for key in ("sensitivity", "prior", "cluster"):
        del document["plan"][key]
    del document["plan"]["estimator"]["variance"]
    ledger.plan = ledger.plan | {"document": document, "plan_hash": "of an older one"}
    check_plan(ledger, trial.experiment)
    changed = trial.experiment.model_copy(update={"stratify_by": ("device",)})
    with pytest.raises(PlanChangedError, match=r"stratify_by: \[\] -> \['device'\]"):
        check_plan(ledger, changed)


def test_the_planned_end_tests_what_is_left_even_where_information_fell(tmp_path):
    """One huge order before the end inflates the variance; what is left is spent all the same."""
    text = plan_text(estimator="{kind: unadjusted}")
    trial = Trial(tmp_path, text, n_users=400, land=False)
    whale = trial.exposures.sort("at")[-1]
    order = pl.DataFrame(
        {
            "user": whale["user"],
            "at": whale["at"] + dt.timedelta(hours=1),
            "event": ["order"],
            "id": ["whale"],
            "amount": [50_000.0],
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )
    incoming(trial.project, "events", "all", pl.concat([trial.events, order]))
    incoming(trial.project, "exposures", "all", trial.exposures)
    land_now(trial.project)
    looks = trial.looks()
    rows = [look.boundary("spend", "treatment") for look in looks]
    assert rows[-1].information < rows[-2].information
    assert rows[-1].no_stop_reason is None
    assert rows[-1].alpha_spent == pytest.approx(0.05)
    left = 0.05 - rows[-2].alpha_spent
    assert rows[-1].critical_value == pytest.approx(stats.norm.isf(left / 2), rel=1e-9)


def test_clusters_are_what_health_checks_count(tmp_path):
    text = plan_text(estimator="{kind: unadjusted}", plan="cluster: household")
    trial = Trial(tmp_path, text, by_household=True)
    look = trial.look(LOOK_DAYS[-1])
    (ratio,) = [check for check in look.checks if check.name == "sample_ratio"]
    households = trial.exposures.group_by("variant").agg(pl.col("household").n_unique())
    for _, n in households.iter_rows():
        assert f" {n} (share" in ratio.message


def test_a_unit_without_a_cluster_is_its_own(tmp_path):
    text = plan_text(estimator="{kind: unadjusted}", plan="cluster: household")
    trial = Trial(tmp_path, text, by_household=True, land=False)
    lost = pl.col("user").is_in(["u00000", "u00400"])
    exposures = trial.exposures.with_columns(household=pl.when(~lost).then(pl.col("household")))
    incoming(trial.project, "events", "all", trial.events)
    incoming(trial.project, "exposures", "all", exposures)
    land_now(trial.project)
    row = trial.look(LOOK_DAYS[-1]).effect("spend", "treatment", "difference", adjusted=False)
    assert row.status == "ok"
    assert row.n_control + row.n_treatment == exposures["household"].n_unique() - 1 + 2


def test_harm_does_not_wait_for_the_primary_metric(tmp_path):
    text = plan_text("slow", metrics="guardrails: [{metric: spend, margin: 0.1}]")
    trial = Trial(tmp_path, text, lift=-0.6, n_users=2500)
    look = trial.look(LOOK_DAYS[1])
    assert look.effect("slow", "treatment", "difference", adjusted=False).reason == "IMMATURE"
    assert [row.metric for row in look.deterioration if row.crossed == "undesired"] == ["spend"]
    assert look.verdict == "DO_NOT_SHIP"


def test_half_open_windows_do_not_end_an_open_ended_plan(tmp_path):
    trial = Trial(tmp_path, plan_text("running", plan="baseline: 4000.0"), n_users=800, lift=0.0)
    looks = trial.looks()
    # Open windows end with the experiment: its four looks begin a week before the first of these.
    assert [look.planned_index for look in looks] == [2, 3, 4, 4]
    fractions = [look.boundary("running", "treatment").information_fraction for look in looks]
    assert fractions[:2] == [0.5, 0.75]
    assert [look.is_planned_end for look in looks[:3]] == [False, False, True]


def test_a_plan_for_a_confidence_sequence_pays_for_it(tmp_path):
    text = plan_text().replace(
        "{kind: group_sequential, planned: 4}", "{kind: confidence_sequence}"
    )
    trial = Trial(tmp_path, text, n_users=2000)
    history = read_history(trial.project, manifest_of(trial.project), trial.experiment)
    report = plan_report(trial.experiment, history)
    fixed = Trial(tmp_path / "fixed", plan_text().replace("planned: 4", "planned: 1"), n_users=2000)
    history = read_history(fixed.project, manifest_of(fixed.project), fixed.experiment)
    ratio = report.n_needed / plan_report(fixed.experiment, history).n_needed
    assert 1.5 < ratio < 3


def test_a_quantile_cap_counts_in_the_plan(tmp_path):
    means = {}
    for name, cap in (("none", ""), ("capped", "cap: {quantile: 0.8, from: pre_period}")):
        trial = Trial(tmp_path / name, plan_text(plan=cap), n_users=1500)
        history = read_history(trial.project, manifest_of(trial.project), trial.experiment)
        means[name] = plan_report(trial.experiment, history).primary
    assert means["capped"].sd_unadjusted < 0.9 * means["none"].sd_unadjusted
    assert means["capped"].baseline < means["none"].baseline


def test_post_stratification_adjusts_ratios_by_the_strata(tmp_path):
    text = plan_text(
        metrics="secondary: [basket]",
        estimator="{kind: post_stratified}",
        top="stratify_by: [device]",
    )
    trial = Trial(tmp_path, text, n_users=800)
    look = trial.look(LOOK_DAYS[-1])
    row = look.effect("basket", "treatment", "difference", adjusted=True)
    plain = look.effect("basket", "treatment", "difference", adjusted=False)
    assert row.status == "ok"
    # A device drawn at random explains nothing.
    assert row.std_error == pytest.approx(plain.std_error, rel=0.05)


@pytest.mark.parametrize("n_households", [8, 12])
def test_a_few_clusters_are_not_tested_as_if_they_were_many(n_households):
    """Size of one two-sided look at 5 % by the score that a boundary is held against."""
    rng = np.random.default_rng(3)
    members = np.repeat(np.arange(n_households), 20)
    arms = members % 2 == 0
    above, runs = 0, 1500
    for _ in range(runs):
        y = rng.normal(size=len(members)) + rng.normal(size=n_households)[members]
        found = compare_clustered(y, arms, members).contrast.difference
        above += abs(normal_score(found)) >= stats.norm.isf(0.025)
    assert above / runs < 0.05 + 3.29 * np.sqrt(0.05 * 0.95 / runs)

"""The event log of a model: three types in order, batches that are no copies, known effects."""

import math

import polars as pl
import pytest

from experiments_dagster.simulate.event_log import COLUMNS, EventLogSpec, one_file, simulate_events
from experiments_dagster.simulate.kinds import make_spec

Z_LIMIT = 4.5
HALVES_OF_TOO_LITTLE = {
    name: {"share": 0.4, "model_version": name, "click_rate": 0.1, "latency_ms": 1.0}
    for name in ("a", "b")
}


def log_of(scenario):
    return pl.concat(list(scenario.tables.values()))


def spec_of(**more):
    return EventLogSpec(**({"users": 4000} | more))


def disordered(log):
    """Users with an inference or response that does not follow what it belongs to."""
    times = {
        kind: log.filter(pl.col("event_type") == kind)
        for kind in ("variant_assignment", "model_inference", "user_response")
    }
    number = pl.col("event_id").str.extract(r"(\d+)$").alias("k")
    assigned = times["variant_assignment"].select("user_id", pl.col("timestamp").alias("assigned"))
    inferred = times["model_inference"].select(
        "user_id", number, pl.col("timestamp").alias("inferred")
    )
    responded = times["user_response"].select("user_id", number, "timestamp")
    joined = assigned.join(inferred, on="user_id").join(responded, on=["user_id", "k"])
    wrong = (pl.col("inferred") <= pl.col("assigned")) | (pl.col("timestamp") <= pl.col("inferred"))
    return joined.filter(wrong).height, joined.height


def test_columns_and_types_are_those_of_the_dashboard():
    table = simulate_events(spec_of()).tables["events_001"]
    assert dict(table.schema) == {name: table.schema[name] for name in COLUMNS}
    known = {
        "variant_assignment": set(),
        "model_inference": {"model_version", "prediction_score", "latency_ms"},
        "user_response": {"clicked"},
    }
    for kind, names in known.items():
        rows = table.filter(pl.col("event_type") == kind)
        assert rows.height == 4000
        for name in ("model_version", "prediction_score", "latency_ms", "clicked"):
            assert rows[name].null_count() == (0 if name in names else 4000)
    assert table["timestamp"].is_sorted()


@pytest.mark.parametrize("impressions", [1.0, 3.0])
def test_nobody_answers_before_the_inference_or_is_served_before_the_assignment(impressions):
    log = log_of(simulate_events(spec_of(impressions_per_user=impressions)))
    wrong, pairs = disordered(log)
    assert wrong == 0
    assert pairs == log.filter(pl.col("event_type") == "user_response").height
    assert log.filter(pl.col("event_type") == "variant_assignment")["user_id"].is_unique().all()


def test_independent_times_would_be_noticed():
    """The broken twin: with times in random order most users have something too early."""
    log = log_of(simulate_events(spec_of()))
    mixed = log.with_columns(log["timestamp"].shuffle(seed=1))
    wrong, pairs = disordered(mixed)
    assert wrong > 0.5 * pairs


def test_batches_are_no_copies_and_do_not_depend_on_each_other():
    two = simulate_events(spec_of(batches=2))
    three = simulate_events(spec_of(batches=3))
    assert two.tables["events_001"].equals(three.tables["events_001"])
    first, second = two.tables.values()
    assert set(first["user_id"]).isdisjoint(second["user_id"])
    clicks = [t.filter(pl.col("clicked").is_not_null())["clicked"] for t in (first, second)]
    assert clicks[0].to_list() != clicks[1].to_list()
    scores = [set(t["prediction_score"].drop_nulls()) for t in (first, second)]
    assert scores[0].isdisjoint(scores[1])
    start = two.parameters.start_at
    for number, table in enumerate((first, second)):
        at = table.filter(pl.col("event_type") == "variant_assignment")["timestamp"]
        days = (at.dt.replace_time_zone(None) - start.item()).dt.total_days()
        assert days.is_between(7 * number, 7 * number + 6).all()
    assert three.more["batch_seeds"] == [[42, 1], [42, 2], [42, 3]]


@pytest.mark.parametrize("impressions", [1.0, 4.0])
def test_click_rate_and_latency_are_the_declared_ones(impressions):
    spec = EventLogSpec(users=100_000, batches=2, impressions_per_user=impressions, seed=3)
    log = log_of(simulate_events(spec))
    for metric, event in (("clicked", "user_response"), ("latency_ms", "model_inference")):
        field = {"clicked": "click_rate", "latency_ms": "latency_ms"}[metric]
        for arm, variant in spec.variants.items():
            rows = log.filter(pl.col("event_type") == event, pl.col("variant") == arm)
            users = rows.group_by("user_id").agg(pl.col(metric).sum(), pl.len())
            rate = users[metric].sum() / users["len"].sum()
            residual = users[metric] - rate * users["len"]
            error = math.sqrt((residual**2).sum()) / users["len"].sum()
            assert abs(rate - getattr(variant, field)) < Z_LIMIT * error


def test_the_truth_is_analytic_and_drawn():
    scenario = simulate_events(EventLogSpec(users=100_000))
    value = {(e.metric, e.estimand, e.derivation): e.value for e in scenario.effects}
    assert value["clicked", "difference", "analytic"] == pytest.approx(0.01)
    assert value["latency_ms", "relative_difference", "analytic"] == pytest.approx(0.05)
    drawn = value["clicked", "difference", "potential_outcomes"]
    # One uniform decides both outcomes: they differ with chance 0.01, n = 100,000.
    assert abs(drawn - 0.01) < Z_LIMIT * math.sqrt(0.01 / 100_000)


def test_scores_tell_clicks_from_none():
    log = log_of(simulate_events(EventLogSpec(users=50_000)))
    scores = log.filter(pl.col("event_type") == "model_inference").select(
        "user_id", "prediction_score"
    )
    clicks = log.filter(pl.col("event_type") == "user_response").select("user_id", "clicked")
    by_click = dict(
        scores.join(clicks, on="user_id")
        .group_by("clicked")
        .agg(pl.col("prediction_score").mean())
        .iter_rows()
    )
    assert by_click[1] > 1.2 * by_click[0]
    assert scores["prediction_score"].is_between(0, 1).all()


def test_late_and_duplicate_rows_keep_their_ids_and_times():
    clean = simulate_events(spec_of(batches=3))
    dirty = simulate_events(spec_of(batches=3, late_share=0.2, duplicate_share=0.05))
    first, second, _ = dirty.tables.values()
    ids = set(clean.tables["events_001"]["event_id"])
    late = second.filter(pl.col("event_id").is_in(list(ids)))
    assert set(late["event_type"]) == {"user_response"}
    assert late.height == pytest.approx(0.2 * 4000, abs=Z_LIMIT * math.sqrt(4000 * 0.2 * 0.8))
    assert (
        late["timestamp"].max()
        < second.filter(~pl.col("event_id").is_in(list(ids)))["timestamp"].max()
    )
    assert first["event_id"].is_duplicated().any()
    everything = log_of(dirty).unique("event_id").sort("event_id")
    assert everything.equals(log_of(clean).sort("event_id"))


def test_units_are_counted_by_arm_and_shares_hold():
    scenario = simulate_events(spec_of(batches=2))
    log = log_of(scenario).filter(pl.col("event_type") == "variant_assignment")
    assert dict(log.group_by("variant").len().iter_rows()) == scenario.units
    assert abs(scenario.units["control"] - 4000) < Z_LIMIT * math.sqrt(8000 / 4)


def test_three_arms_and_one_file_from_a_configuration():
    variants = {
        name: {"share": share, "model_version": name, "click_rate": rate, "latency_ms": 50.0}
        for name, share, rate in (("old", 0.5, 0.1), ("new", 0.25, 0.1), ("newest", 0.25, 0.05))
    }
    spec = make_spec("ab-ml", {"variants": variants, "users": 2000, "batches": 2})
    scenario = one_file(simulate_events(spec))
    assert list(scenario.tables) == ["events"]
    assert scenario.tables["events"].height == 12_000
    assert {e.arm for e in scenario.effects} == {"new", "newest"}
    assert {e.control for e in scenario.effects} == {"old"}


def test_effects_of_a_command_line_move_every_treatment():
    spec = make_spec("ab-ml", {}, ["0.03", "latency_ms=0.5"])
    assert spec.variants["treatment"].click_rate == pytest.approx(0.11)
    assert spec.variants["treatment"].latency_ms == pytest.approx(180.0)
    assert spec.variants["control"].click_rate == 0.08


@pytest.mark.parametrize(
    ("given", "effects", "rule"),
    [
        ({"variants": {"a": {"share": 1.0}}}, [], "variants.a.share is 1.0"),
        ({"variants": HALVES_OF_TOO_LITTLE}, [], "sum to 0.8"),
        ({}, ["0.95"], "click_rate is 1.03"),
        ({"batches": 0}, [], "batches is 0"),
        ({"users": True}, [], "users is True"),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit_is_named(given, effects, rule):
    with pytest.raises(ValueError, match=rule):
        make_spec("ab-ml", given, effects)

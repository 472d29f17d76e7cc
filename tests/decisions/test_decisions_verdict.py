"""Verdicts: every combination of evidence gives one, and the order of the clauses holds."""

import itertools

import pytest

from experiments_dagster.decisions.verdict import (
    Decision,
    Evidence,
    GuardrailEvidence,
    decide,
    overall,
)

STATES = ("non_inferior", "worse", "open", "not_estimable")
GUARDRAILS = [
    tuple(GuardrailEvidence(metric=f"g{k}", state=state) for k, state in enumerate(states))
    for n in (0, 1, 2)
    for states in itertools.product(STATES, repeat=n)
]
INTERVALS = [(None, None), (-0.05, 0.01), (-0.05, 0.02), (-0.01, 0.05)]


def expected(e):  # noqa: PLR0911  one return per clause
    """METHODS section 13 read line by line."""
    states = {g.state for g in e.guardrails}
    if e.missing:
        return "INCOMPLETE", "1"
    if e.failed_checks:
        return "INVALID", "2"
    if e.is_amended:
        return "EXPLORATORY", "3"
    if e.success == "undesired":
        return "DO_NOT_SHIP", "4"
    if e.success == "desired" and states <= {"non_inferior"}:
        return "SHIP", "5"
    if e.success == "desired" and "worse" not in states:
        return ("DO_NOT_SHIP" if e.is_planned_end else "PENDING"), "6"
    if "worse" in states:
        return "DO_NOT_SHIP", "7"
    if not e.is_planned_end:
        return "PENDING", "9"
    if e.minimum_effect and e.high is not None and e.high < e.minimum_effect:
        return "DO_NOT_SHIP", "10"
    return "INCONCLUSIVE", "10"


def test_every_combination_of_evidence_has_the_verdict_of_the_methods():
    seen = set()
    for missing, failed, amended, success, guardrails, end, fraction, (low, high), effect in (
        itertools.product(
            [(), ("m (ZERO_DENOMINATOR)",)], [(), ("sample_ratio: 600 to 400",)], [False, True],
            ["none", "desired", "undesired"], GUARDRAILS, [False, True], [None, 0.4, 1.2],
            INTERVALS, [None, 0.02],
        )
    ):  # fmt: skip
        evidence = Evidence(
            missing=missing, failed_checks=failed, is_amended=amended, success=success,
            success_look=None if success == "none" else 2, guardrails=guardrails,
            is_planned_end=end, information_fraction=fraction, low=low, high=high,
            minimum_effect=effect, next_look="2026-03-09",
        )  # fmt: skip
        decision = decide(evidence)
        assert (decision.verdict, decision.clause.split()[0]) == expected(evidence)
        assert decision.reason
        assert "None" not in decision.reason
        assert decision.is_harmful == (success == "undesired")
        assert bool(decision.missing) == (decision.verdict in ("PENDING", "INCOMPLETE"))
        seen.add((decision.verdict, decision.clause))
    assert len(seen) == 11


def test_harm_is_said_before_too_little_data():
    harm = decide(Evidence(success="undesired", success_look=1, information_fraction=0.1))
    assert (harm.verdict, harm.clause) == ("DO_NOT_SHIP", "4 harm")
    assert "crossed at look 1" in harm.reason


@pytest.mark.parametrize(("end", "verdict"), [(False, "PENDING"), (True, "DO_NOT_SHIP")])
def test_an_open_guardrail_is_named(end, verdict):
    guardrail = GuardrailEvidence(metric="latency", state="open")
    evidence = Evidence(
        success="desired", success_look=2, guardrails=(guardrail,), is_planned_end=end
    )
    decision = decide(evidence)
    assert decision.verdict == verdict
    assert "latency" in decision.reason


def test_an_interval_that_ends_at_the_minimum_effect_does_not_exclude_it():
    at = Evidence(is_planned_end=True, minimum_effect=0.02, low=-0.1, high=0.02)
    assert decide(at).verdict == "INCONCLUSIVE"


def verdict(name):
    return Decision(verdict=name, clause="", reason="")


@pytest.mark.parametrize(
    ("arms", "winner"),
    [
        ([("a", "PENDING", None), ("b", "SHIP", 0.01)], "b"),
        ([("a", "SHIP", 0.01), ("b", "SHIP", 0.02)], "b"),
        ([("a", "SHIP", None), ("b", "SHIP", 0.02)], "b"),
        ([("b", "SHIP", 0.02), ("a", "SHIP", 0.02)], "a"),
        ([("a", "INVALID", 0.5), ("b", "SHIP", 0.01)], "b"),
        ([("a", "PENDING", 0.5), ("b", "INVALID", None)], "b"),
        ([("a", "DO_NOT_SHIP", 0.5), ("b", "INCONCLUSIVE", -0.5)], "b"),
        ([("a", "DO_NOT_SHIP", None), ("b", "PENDING", None)], "b"),
    ],
)
def test_the_arm_that_stands_for_the_experiment(arms, winner):
    decisions = [(arm, verdict(name), low) for arm, name, low in arms]
    assert overall(decisions)[0] == winner
    assert overall(decisions[::-1])[0] == winner

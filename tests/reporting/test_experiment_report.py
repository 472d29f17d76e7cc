"""The HTML report: safe, self-contained, complete, and true to the records."""

import re

import pytest
from report_factories import SALT, Page, make_effects, make_experiment, make_look

from experiments_dagster.looks.records import ArmDecision
from experiments_dagster.reporting.experiment_report import render_experiment_report
from experiments_dagster.reporting.numbers import lift

PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "'><svg onload=alert(1)>",
    "</style><script>alert(1)</script>",
    "</title></desc></svg><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "a < b & c",
]
SECTIONS = [
    "bottom-line", "tested", "health", "primary", "sequential", "guardrails", "secondary",
    "power", "method", "lineage", "next",
]  # fmt: skip


def page_of(experiment, looks):
    return Page(render_experiment_report(experiment, looks))


def assert_safe(page):
    """No script, handler, script address or outside resource, whatever the text says."""
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "link", "base", "form", "img"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in {"src", "href", "xlink:href", "action", "formaction", "srcset"}
            assert "javascript:" not in (value or "").lower()
            assert "url(" not in (value or "").lower()
            if name != "xmlns":
                assert "//" not in (value or "")


def test_sections_stand_in_their_order(experiment, looks):
    page = page_of(experiment, looks)
    found = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert found == SECTIONS


def test_page_is_self_contained_and_has_a_strict_policy(experiment, looks):
    text = render_experiment_report(experiment, looks)
    page = Page(text)
    assert_safe(page)
    policy = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policy == [
        (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
            "form-action 'none'"
        )
    ]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_names_show_as_typed(payload):
    experiment = make_experiment(hostile=payload)
    looks = [make_look(n, experiment=experiment, reason=payload) for n in (1, 2, 3)]
    page = page_of(experiment, looks)
    assert_safe(page)
    assert payload in page.text
    for _, attributes in page.tags:
        assert all(payload not in (value or "") for value in attributes.values())


def test_control_characters_and_direction_overrides_do_not_reach_the_page():
    experiment = make_experiment(hypothesis={"primary": "up\u202edown\x08 left"})
    text = render_experiment_report(experiment, [make_look(1, experiment=experiment)])
    assert "\u202e" not in text
    assert "\x08" not in text


def test_salt_is_never_printed(experiment, looks):
    text = render_experiment_report(experiment, looks)
    assert SALT not in text
    assert experiment.plan_document["salt"] not in text
    assert experiment.plan_hash in text


def test_same_looks_give_the_same_page(experiment, looks):
    assert render_experiment_report(experiment, looks) == render_experiment_report(
        experiment, looks
    )


def test_numbers_are_the_recorded_ones(experiment, looks):
    page = page_of(experiment, looks)
    shown = dict(page.data)
    look = looks[-1]
    for effect in look.effects:
        if effect.role != "primary":
            continue
        for value in (effect.estimate, effect.ci_low, effect.ci_high, effect.p_value):
            assert value in shown
    row = look.boundary("spend", "bold")
    for value in (row.limit_low, row.limit_high, row.critical_value, row.statistic):
        assert value in shown
    assert shown[0.1234567] == "+12.3%"
    assert shown[row.limit_low] == "+3.12%"
    assert shown[0.0123456] == "0.0123"


def test_every_shown_number_is_near_its_value(experiment, looks):
    for value, text in page_of(experiment, looks).data:
        if text.startswith(("<", ">")):
            continue
        plain = float(re.sub(r"[^0-9.e+-]", "", text.replace("−", "-")))
        scale = 100 if text.endswith(("%", "pp")) else 1
        assert plain == pytest.approx(scale * value, rel=5.1e-3)


def test_naive_numbers_are_labelled(experiment, looks):
    text = page_of(experiment, looks).text
    assert "Naive: valid only if this were the only look" in text
    assert "unadjusted for multiplicity" in text
    assert "The true lift is known: +12.0%, inside the repeated interval." in text
    assert "reduced the variance by 41%" in text


@pytest.mark.parametrize("clause", ["2 quality", "1 incomplete"])
def test_failed_health_check_hides_effects(experiment, clause):
    verdict = "INVALID" if clause == "2 quality" else "INCOMPLETE"
    decision = ArmDecision(
        arm="bold", verdict=verdict, clause=clause, reason="r", missing=(), is_harmful=False
    )
    look = make_look(3, invalid=True, verdict=verdict, decisions=(decision,))
    page = page_of(experiment, [look])
    estimate = lift(0.1234567)
    assert estimate in page.text
    assert estimate not in page.visible
    assert "+3.12%" not in page.visible
    assert "Hidden, because a health check failed (sample_ratio)" in page.visible
    assert "Do not use the effects of this look" in page.visible
    assert not [a for t, a in page.tags if t == "details" and "open" in a]


def test_valid_look_hides_nothing(experiment, looks):
    page = page_of(experiment, looks)
    assert not [t for t, _ in page.tags if t == "details"]


def test_not_estimable_shows_its_reason_and_no_number():
    experiment = make_experiment(truth=None)
    look = make_look(1, missing="IMMATURE", anytime=(), adjustments=())
    page = page_of(experiment, [look])
    assert "no unit has its whole window observed" in page.text
    start = page.text.index("Primary result")
    primary = page.text[start : page.text.index("Looks and alpha ledger", start)]
    assert "– (no unit has its whole window observed)" in primary
    assert not re.search(r"[0-9]", primary.replace("95%", ""))


def test_unknown_reason_code_stands_for_itself(experiment):
    effects = make_effects(metric="spend", role="primary", arm="bold", lift=0, missing="NEW_CODE")
    page = page_of(experiment, [make_look(1, boundaries=(), effects=tuple(effects))])
    assert "– (NEW_CODE)" in page.text


def test_peek_says_what_it_is(experiment, looks):
    page = page_of(experiment, [*looks[:2], make_look(None)])
    assert "unplanned peek" in page.visible
    assert "spends no alpha" in page.visible
    assert "experiments reproduce" not in page.text


def test_lineage_names_the_command(experiment, looks):
    text = page_of(experiment, looks).text
    assert "experiments reproduce button.1.3" in text
    assert "batch 17" in text
    assert "The configuration has changed" not in text


def test_look_of_another_plan_is_said(experiment):
    page = page_of(experiment, [make_look(1, plan_hash="0123456789ab")])
    assert "The configuration has changed since this look" in page.text


def test_crossing_that_the_shown_interval_does_not_follow_is_explained(experiment, looks):
    rows = tuple(
        row.model_copy(update={"limit_low": -0.001}) if row.kind == "success" else row
        for row in looks[-1].boundaries
    )
    page = page_of(experiment, [looks[-1].model_copy(update={"boundaries": rows})])
    assert "still includes 0" in page.text


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("SHIP", "Roll out bold"),
        ("DO_NOT_SHIP", "Leave the control in place and end the assignment"),
        ("PENDING", "Wait for the next planned look"),
        ("INVALID", "Find the cause of the failed check"),
        ("INCOMPLETE", "Make these estimable"),
        ("INCONCLUSIVE", "neither an effect nor its absence is shown"),
        ("EXPLORATORY", "test them in a new phase"),
    ],
)
def test_next_steps_follow_the_verdict(experiment, verdict, words):
    page = page_of(experiment, [make_look(2, verdict=verdict)])
    assert words in page.visible
    assert verdict.replace("_", " ") in page.visible


def test_harm_is_said_whatever_decided(experiment):
    decision = ArmDecision(
        arm="bold", verdict="DO_NOT_SHIP", clause="4 harm", reason="worse", missing=(),
        is_harmful=True,
    )  # fmt: skip
    page = page_of(experiment, [make_look(2, verdict="DO_NOT_SHIP", decisions=(decision,))])
    assert "moved the wrong way in bold" in page.visible
    assert "Take bold out of exposure now" in page.visible


def test_declared_business_numbers_are_shown_as_declared():
    experiment = make_experiment(business={"value_per_unit": 12.5, "cost": 40000.0})
    page = page_of(experiment, [make_look(3, experiment=experiment)])
    assert "Declared business numbers" in page.text
    assert "12.5" in page.text
    assert "40,000" in page.text
    assert "– (not declared)" in page.text


def test_several_arms_each_have_their_decision():
    experiment = make_experiment(
        variants={"control": 0.4, "bold": 0.3, "plain": 0.3}, truth={"bold": 0.12, "plain": 0.0}
    )
    look = make_look(3, experiment=experiment)
    plain = look.decisions[0].model_copy(update={"arm": "plain", "verdict": "PENDING"})
    look = look.model_copy(update={"decisions": (*look.decisions, plain)})
    page = page_of(experiment, [look])
    assert "bold against control" in page.text
    assert "plain against control" in page.text
    assert "split over 2 treatment arms (Bonferroni)" in page.text


def test_confidence_sequence_plan_has_no_ledger():
    looks_plan = {"schedule": "weekly", "design": {"kind": "confidence_sequence"}}
    experiment = make_experiment(plan={"mde": 0.08, "looks": looks_plan})
    look = make_look(2, experiment=experiment, boundaries=())
    text = page_of(experiment, [look]).text
    assert "spends no alpha by look" in text
    assert "cumulative alpha spent" not in text
    assert "95% confidence sequence: decides" in text


def test_arm_that_had_its_last_look_keeps_its_ledger(experiment, looks):
    last = make_look(4, boundaries=(), information_fractions={"bold": 1.02})
    text = page_of(experiment, [*looks, last]).text
    assert "the arm has had its last look" in text
    assert "Alpha ledger of bold: 0.003 of 0.05 spent, 0.047 left." in text
    assert "102%" in text
    assert "within its margin (shown at look 3)" in text


def test_without_a_look_or_with_another_experiments_look_it_refuses(experiment):
    with pytest.raises(ValueError, match="no look to report"):
        render_experiment_report(experiment, [])
    stranger = make_look(1).model_copy(update={"experiment": "other"})
    with pytest.raises(ValueError, match="do not belong here"):
        render_experiment_report(experiment, [stranger])

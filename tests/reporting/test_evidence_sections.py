"""What stands beside a result: shown with its meaning, absent where there is nothing, never loud
about an invalid comparison."""

import json
import re

import pytest
from report_factories import (
    Page,
    make_boundary,
    make_deterioration,
    make_effects,
    make_experiment,
    make_look,
    make_novelty,
    make_segments,
    make_sensitivity,
    make_trust,
)
from test_experiment_report import assert_safe

from experiments_dagster.looks.records import ArmDecision, Look
from experiments_dagster.reporting.experiment_report import render_experiment_report

EVIDENCE = ("success", "trust", "safety", "segments", "novelty", "sensitivity")
TWO_METRICS = {
    "primary": {"metric": "spend", "minimum_effect": 0.05},
    "success": ["visits"],
    "secondary": ["converted"],
}


def page_of(experiment, looks):
    page = Page(render_experiment_report(experiment, looks))
    assert_safe(page)
    return page


def sections_of(page):
    return [attributes["id"] for tag, attributes in page.tags if tag == "section"]


def test_a_look_with_everything_shows_everything(rich):
    project, looks = rich
    trial = project.experiments["trial"]
    page = page_of(trial, looks)
    assert set(EVIDENCE) <= set(sections_of(page))
    shown = {value for value, _ in page.data}
    last = looks[-1]
    assert {row.shrunk_estimate for row in last.trust} <= shown
    assert {row.statistic for row in last.deterioration} <= shown
    assert {test.q for test in last.segment_tests} <= shown
    assert {row.slope for row in last.novelty} <= shown
    assert {row.estimate for row in last.sensitivity} <= shown
    assert {row.p_adjusted for row in last.effects if row.p_adjusted is not None} <= shown
    for value, text in page.data:
        if not text.startswith(("<", ">")):
            plain = float(re.sub(r"[^0-9.e+-]", "", text.replace("−", "-")))
            scale = 100 if text.endswith(("%", "pp")) else 1
            assert plain == pytest.approx(scale * value, rel=5.1e-3)  # three digits


def test_a_look_recorded_before_all_this_still_renders(rich):
    project, looks = rich
    trial = project.experiments["trial"]
    new_fields = {
        "effects": ("interval", "segment", "level", "p_adjusted", "correction"),
        "boundaries": ("futility_bound", "beta_spent", "is_futile"),
    }
    old = []
    for look in looks:
        record = json.loads(look.model_dump_json())
        for name in (
            "segments",
            "segment_tests",
            "sensitivity",
            "deterioration",
            "trust",
            "novelty",
        ):
            del record[name]
        for table, names in new_fields.items():
            for row in record[table]:
                for name in names:
                    del row[name]
        old.append(Look.model_validate(record))
    page = page_of(trial, old)
    assert not set(EVIDENCE[1:]) & set(sections_of(page))
    assert "unadjusted for multiplicity" in page.text
    assert "corrected p" not in page.text


def test_nothing_to_say_makes_no_section(experiment, looks):
    assert not set(EVIDENCE) & set(sections_of(page_of(experiment, looks)))


def test_success_metrics_show_their_share_boundary_and_state():
    experiment = make_experiment(metrics=TWO_METRICS)
    look = make_look(3, experiment=experiment)
    effects = make_effects(metric="visits", role="success", arm="bold", lift=0.0444)
    boundary = make_boundary("visits", "bold", number=3).model_copy(
        update={"statistic": 1.2345, "crossed": "none", "limit_low": -0.0111, "limit_high": 0.0999}
    )
    kept = tuple(row for row in look.effects if row.metric != "visits")
    look = look.model_copy(
        update={"effects": (*kept, *effects), "boundaries": (*look.boundaries[:1], boundary)}
    )
    page = page_of(experiment, [look])
    found = page.sections["success"]
    assert "split equally over 2 hypotheses" in found
    assert "intervals at 97.5%" in found
    assert "+4.44%" in found
    assert "−1.11% to +9.99%" in found
    assert "+1.23 (needs 2.68)" in found
    assert "improved (shown at look 3)" in found
    assert "open" in found
    assert "2 success metrics (Bonferroni)" in page.text


def test_a_win_of_another_success_metric_is_in_the_bottom_line():
    experiment = make_experiment(metrics=TWO_METRICS)
    look = make_look(3, experiment=experiment)
    effects = make_effects(metric="visits", role="success", arm="bold", lift=0.0444)
    kept = tuple(row for row in look.effects if row.metric != "visits")
    look = look.model_copy(
        update={
            "effects": (*kept, *effects),
            "boundaries": (make_boundary("visits", "bold", number=3),),
        }
    )
    page = page_of(experiment, [look])
    start = page.text.index("Ship bold.")
    assert "Estimated lift of visits, bold against control: +4.44%" in page.text[start:][:600]


def test_success_metrics_on_a_confidence_sequence_have_no_boundary():
    plan = {
        "mde": 0.08,
        "looks": {"schedule": "weekly", "design": {"kind": "confidence_sequence"}},
    }
    experiment = make_experiment(metrics=TWO_METRICS, plan=plan)
    look = make_look(2, experiment=experiment, boundaries=())
    found = page_of(experiment, [look]).sections["success"]
    assert "+1.01% to +24.0%" in found
    assert "improved (shown at look 2)" in found
    assert "not estimable" in found  # the other metric has no sequence yet


def test_a_suspicious_effect_is_a_warning_in_both_places(experiment):
    look = make_look(3, trust=(make_trust(is_suspicious=True, twyman_ratio=5.4321),))
    page = page_of(experiment, [look])
    assert page.text.count("Too large to be true?") == 2
    assert (
        "is 5.43 times the spread that the prior and the noise allow; the limit is 4" in page.text
    )
    assert "Look for a fault in logging, assignment or exposure" in page.text


def test_a_suspicious_effect_of_an_invalid_look_stays_hidden(experiment):
    look = make_look(3, invalid=True, trust=(make_trust(is_suspicious=True, twyman_ratio=5.4321),))
    page = page_of(experiment, [look])
    assert "Too large to be true?" not in page.visible
    assert "5.43" not in page.visible


def test_raw_and_shrunk_lift_stand_side_by_side_with_the_prior(experiment):
    page = page_of(experiment, [make_look(3, trust=(make_trust(),))])
    found = page.sections["trust"]
    assert found.index("+12.3%") < found.index("+9.87%")
    assert "default prior" in found
    assert "standard deviation 5%" in found
    assert "Too large" not in found
    assert "Inconclusive" not in found


def test_false_positive_risk_is_said_in_words(experiment):
    page = page_of(experiment, [make_look(3, trust=(make_trust(),))])
    assert "3.03% to 22% of the wins" in page.text
    assert "(1 in 33 to 1 in 4.5), if 50% to 10% of the changes tested truly work" in page.text
    declared = make_experiment(
        plan={
            "mde": 0.08, "looks": {"schedule": "weekly", "design": {"kind": "confidence_sequence"}},
            "prior": {"lift_sd": 0.02, "share_true": 0.2},
        }
    )  # fmt: skip
    row = make_trust(
        prior="declared", false_positive_risk_low=0.1111, false_positive_risk_high=0.1111
    )
    look = make_look(3, experiment=declared, trust=(row,), boundaries=())
    text = page_of(declared, [look]).text
    assert "11.1% of the wins" in text
    assert "(1 in 9), if 20% of the changes tested truly work, as the plan says" in text
    assert "declared prior" in text


def test_too_little_data_is_inconclusive_and_not_no_effect(experiment):
    page = page_of(experiment, [make_look(3, trust=(make_trust(is_underpowered=True),))])
    assert "Inconclusive, which is not the same as no effect" in page.text
    assert "one of the planned size (+8%)" in page.text


def test_segments_are_exploratory_tested_and_listed_where_not(experiment):
    page = page_of(experiment, [make_look(3, **make_segments())])
    found = page.sections["segments"]
    assert "Exploratory" in found
    assert "never feed the verdict" in found
    assert "Benjamini-Hochberg" in found
    assert "Cochran's Q 4.57 on 1 degree of freedom, p 0.0432" in found
    assert "+3.21" in found
    assert "0.0642" in found
    assert "Not tested and not drawn: device watch: too few units (1,234 + 1,250)" in found
    drawn = found[: found.index("effect minus the rest")]
    assert "watch" not in drawn
    assert "0.0247" in drawn  # the corrected p of the level's effect
    assert "difference between levels: p 0.0432" in drawn


def test_segments_are_drawn_as_differences_where_a_level_has_no_lift(experiment):
    made = make_segments()
    rows = tuple(
        row.model_copy(update={"status": "not_estimable", "reason": "ZERO_DENOMINATOR",
                               "estimate": None, "ci_low": None, "ci_high": None})
        if row.is_relative and row.level == "phone" else row
        for row in made["segments"]
    )  # fmt: skip
    page = page_of(experiment, [make_look(3, **made | {"segments": rows})])
    found = page.sections["segments"]
    assert "difference by level" in found
    assert "lift by level" not in found


def test_without_a_tested_level_there_is_no_plot(experiment):
    page = page_of(experiment, [make_look(3, **make_segments(levels={"only": 0.1}))])
    found = page.sections["segments"]
    assert "larger dots" not in found
    assert "Not tested and not drawn: device only" in found


def test_hostile_levels_show_as_typed(experiment):
    name = "</text><script>alert(1)</script>"
    page = page_of(experiment, [make_look(3, **make_segments(levels={name: 0.1, "x": 0.2}))])
    assert name in page.text


def test_novelty_shows_trend_and_warns_only_when_flagged(experiment):
    calm = page_of(experiment, [make_look(4, novelty=(make_novelty(),))])
    found = calm.sections["novelty"]
    assert "changes by −0.501 per day (std. error 0.111, p 0.222)" in found
    assert "on the first 3 days, it is +4.50; late, on the last 3, +1.50" in found
    assert "wears off" not in found
    loud = page_of(experiment, [make_look(4, novelty=(make_novelty(is_flagged=True),))])
    assert "The effect wears off with the days since exposure" in loud.text
    grown = make_novelty(is_flagged=True).model_copy(update={"late": 9.0})
    assert "The effect grows" in page_of(experiment, [make_look(4, novelty=(grown,))]).text
    turned = make_novelty(is_flagged=True).model_copy(update={"late": -1.0})
    assert "changes its sign" in page_of(experiment, [make_look(4, novelty=(turned,))]).text


def test_other_methods_say_what_they_estimate_and_decide_nothing(experiment):
    page = page_of(experiment, [make_look(3, sensitivity=make_sensitivity())])
    found = page.sections["sensitivity"]
    assert "decide nothing" in found
    assert "method of the plan" in found
    assert "the same without covariates" in found
    assert "how much more often than in half of all pairs" in found
    assert "+4.04 pp" in found
    assert "– (the variance is zero)" in found


def test_the_safety_monitor_shows_alpha_statistic_and_bound(experiment):
    rows = tuple(make_deterioration(name, "bold") for name in ("spend", "visits"))
    page = page_of(experiment, [make_look(2, deterioration=rows)])
    found = page.sections["safety"]
    assert "0.005" in found
    assert "−1.23" in found
    assert "3.57" in found
    assert found.count("no harm shown") == 2
    assert "0.01 in total" in found


def test_harm_names_the_metric_and_the_look_that_showed_it(experiment):
    decision = ArmDecision(
        arm="bold", verdict="DO_NOT_SHIP", clause="4 harm",
        reason="visits got worse (safety monitor)", missing=(), is_harmful=True,
    )  # fmt: skip
    harmed = make_look(
        1, deterioration=(make_deterioration("visits", "bold", crossed="undesired"),)
    )
    later = make_look(
        2, verdict="DO_NOT_SHIP", decisions=(decision,),
        deterioration=(make_deterioration("visits", "bold"),),
    )  # fmt: skip
    page = page_of(experiment, [harmed, later])
    assert "Harm: visits moved the wrong way in bold." in page.visible
    found = page.sections["safety"]
    assert "harm shown at look 1" in found
    assert "not watched yet: too few units" in found  # spend


def futile_looks(experiment):
    looks = []
    for number, bound in ((2, -0.5), (3, 0.75)):
        look = make_look(number, experiment=experiment)
        rows = tuple(
            row.model_copy(
                update={"futility_bound": bound, "beta_spent": 0.05 * number, "crossed": "none",
                        "statistic": 0.5, "is_futile": bound > 0.5}
            )
            if row.kind == "success" else row
            for row in look.boundaries
        )  # fmt: skip
        looks.append(look.model_copy(update={"boundaries": rows}))
    decision = ArmDecision(
        arm="bold", verdict="DO_NOT_SHIP", clause="8 futility",
        reason="success has become unlikely", missing=(), is_harmful=False,
    )  # fmt: skip
    change = {"verdict": "DO_NOT_SHIP", "decisions": (decision,), "reason": decision.reason}
    return [looks[0], looks[1].model_copy(update=change)]


def test_a_futility_bound_is_drawn_listed_and_never_called_no_effect(experiment):
    page = page_of(experiment, futile_looks(experiment))
    found = page.sections["sequential"]
    assert "futility bound (not binding)" in found
    assert "+0.750" in found
    assert "costs no type I error" in found
    assert "futility" in found
    assert "Do not report that there is no effect" in page.text
    assert "0.15 of 0.2" in page.text  # beta


def test_plans_of_every_spending_have_words():
    for spending, parameter, words in (
        ("kim_demets", 2.0, "Kim-DeMets (2)"),
        ("hwang_shih_decani", -4.0, "Hwang-Shih-DeCani (-4)"),
    ):
        design = {
            "kind": "group_sequential", "planned": 4, "spending": spending,
            "parameter": parameter, "futility": {"spending": "pocock"},
        }  # fmt: skip
        plan = {"mde": 0.08, "looks": {"schedule": "weekly", "design": design}}
        experiment = make_experiment(plan=plan)
        text = page_of(experiment, [make_look(1, experiment=experiment)]).text
        assert words in text
        assert "non-binding futility bound with Pocock spending" in text

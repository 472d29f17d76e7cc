"""The report of a study: the word effect only where the claim carries it, everything recorded."""

import ast
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from report_factories import Page
from test_experiment_report import assert_safe

import experiments_dagster.causal
from experiments_dagster.assets.results.study_metadata import study_metadata
from experiments_dagster.cli.causal.run import sheets_of
from experiments_dagster.interventions.study import (
    Picture,
    Skipped,
    Study,
    StudyEstimate,
    StudyTable,
    study_document,
    table_of,
)
from experiments_dagster.reporting.charts import DonorWeight, donor_weight_chart
from experiments_dagster.reporting.refutation_words import QUESTIONS, refutation_words
from experiments_dagster.reporting.study_report import (
    StudyRecord,
    render_study_report,
    study_markdown,
)
from experiments_dagster.reporting.study_sections import called
from experiments_dagster.stats.records import CheckOutcome

SECTIONS = ["bottom-line", "design", "refutations", "pictures", "estimates", "tables", "lineage",
            "next"]  # fmt: skip
HOSTILE = '"><img src=x onerror=alert(1)><script>x</script>|`[a](javascript:b)'


def make_check(name, *, passed=True, severity="ERROR", message="effect -19, p = 0.02"):
    return CheckOutcome(
        name=name, passed=passed, severity=severity, value=0.02, threshold=0.05, message=message
    )


def make_estimate(**changes):
    values = {
        "name": "average effect", "method": "synthetic control", "estimate": -18.973412,
        "ci_low": -27.123456, "ci_high": -9.314159, "confidence_level": 0.95, "p_value": 0.0256,
    }  # fmt: skip
    return StudyEstimate(**values | changes)


def draw(width):
    donors = [DonorWeight(name="Utah", weight=0.334), DonorWeight(name="Nevada", weight=0.235)]
    return donor_weight_chart(donors, title="Donor weights", width=width)


def make_study(*checks, text="two-way fixed effects", **changes):
    values = {
        "design": "synthetic_control",
        "method": text,
        "estimand": "the effect of the tax on packs per head",
        "facts": (("Treated", "California"),),
        "assumptions": ("no donor was touched by the tax",),
        "estimates": (
            make_estimate(),
            make_estimate(name="relative effect", estimate=-0.2411, ci_low=-0.32, ci_high=-0.12,
                          std_error=0.05, unit="relative to the counterfactual"),
        ),
        "refutations": checks or (make_check("placebo_in_space"), make_check("pre_fit")),
        "tables": (
            table_of("donor_weights", "Donors of the effect", [
                {"donor": "Utah", "weight": 0.33412345, "is_close": True, "n_years": 1970},
                {"donor": "Nevada", "weight": None, "is_close": False, "n_years": 12},
            ], note="weights below 0.001 are left out"),
        ),
        "pictures": (Picture(name="weights", caption="How the effect is mixed.", draw=draw),),
        "warnings": ("the effect rests on -3 donors",),
    }  # fmt: skip
    return Study(**values | changes)


def make_record(study=None, **changes):
    values = {
        "slug": "proposition_99", "description": "California raised its tax",
        "owner": "team:health", "study": study or make_study(), "cutoff": 9,
        "as_of": "2026-03-12T00:00:00+00:00", "code_version": "0.1.0",
        "config_hash": "0123456789ab", "inputs": {"data/prop99.csv": "ab" * 32},
        "reproduce": "experiments synthetic-control --input data/prop99.csv",
        "display_unit": "packs per head",
    }  # fmt: skip
    return StudyRecord(**values | changes)


def page_of(study=None, **changes):
    return Page(render_study_report(make_record(study, **changes)))


WEAK = make_check("pre_fit", passed=False, severity="WARN", message="error 2: too large")
BLOCK = make_check("placebo_in_time", passed=False, message="effect -19: found elsewhere")


def test_sections_stand_in_their_order_and_the_page_is_safe():
    page = page_of()
    assert_safe(page)
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section"] == SECTIONS


def test_a_supported_claim_is_called_an_effect():
    page = page_of()
    assert "SUPPORTED" in page.sections["bottom-line"]
    assert "Estimated effect: −19.0 packs per head (average)." in page.sections["bottom-line"]
    assert "still not randomised" in page.sections["bottom-line"]
    assert "Estimated effect" in page.sections["estimates"]
    assert "association" not in page.text.lower()


@pytest.mark.parametrize(
    ("checks", "badge"), [((WEAK,), "WEAK"), ((BLOCK, WEAK), "REFUSED"), ((BLOCK,), "REFUSED")]
)
def test_anything_else_is_an_association(checks, badge):
    page = page_of(make_study(*checks))
    bottom = page.sections["bottom-line"]
    assert badge in bottom
    assert "Estimated association: −19.0 packs per head (average)" in bottom
    # The word is left to what the study is about, to models named after it and to warnings
    # against it; whatever names the number says association.
    for part in ("refutations", "pictures", "estimates", "tables"):
        assert not re.search(r"\beffects?\b", page.sections[part], re.IGNORECASE), part
    assert "two-way fixed effects" in page.sections["design"].lower()
    assert "Do not report this as an effect." in page.sections["next"]
    markdown = study_markdown(make_record(make_study(*checks)))
    assert "Estimated association: −19.0" in markdown
    assert "average effect" not in markdown


@pytest.mark.parametrize("check", [WEAK, BLOCK])
def test_screen_and_metadata_use_the_same_word(check):
    rows = [{"start": 1989, "average_effect": 2.0}]
    study = make_study(
        check, tables=(table_of("cells", "Effects by period", rows, note="mean effect"),)
    )
    sheets = sheets_of(study)
    said = [[*sheet.columns, *(words for row in sheet.rows for words in row), *sheet.notes]
            for sheet in sheets]  # fmt: skip
    assert "mean association" in said[-1]
    assert sheets[-1].title == "Associations by period"
    assert sheets[-1].columns == ("start", "average_association")
    assert sheets[0].rows[0][0] == "average association"
    assert "(estimand: the effect of the tax on packs per head)" in sheets[0].title
    metadata = study_metadata(study, study.warnings)
    assert "association: average association" in metadata
    facts = {
        key: text
        for key, text in metadata.items()
        if key not in {"estimand", "design"} and isinstance(text, str)  # pictures draw themselves
    }
    for text in [*(words for sheet in said for words in sheet), *facts, *facts.values()]:
        assert not re.search(r"(?<!fixed )effect", text), text
    # The name of a method is no name of the number.
    groups = called("group-time effects and two-way fixed-effects regression", study.claim)
    assert groups == "group-time effects and two-way fixed-effects regression"


def test_a_supported_study_says_effect_on_the_screen_too():
    study = make_study()
    assert sheets_of(study)[0].rows[0][0] == "average effect"
    assert "effect: average effect" in study_metadata(study, ())
    assert study_document(study)["claim"]["term"] == "effect"
    assert study_document(make_study(WEAK))["claim"]["term"] == "association"


def test_the_screen_says_why_there_is_no_interval():
    rows = (
        make_estimate(ci_low=None, ci_high=None, reason="NOT_IDENTIFIED"),
        make_estimate(ci_low=None, ci_high=None, reason="12 placebos allow none"),
        make_estimate(ci_low=None, ci_high=None),
        make_estimate(ci_high=None, reason="open"),
    )
    intervals = [row[3] for row in sheets_of(make_study(estimates=rows))[0].rows]
    assert intervals == [
        "the data do not identify the quantity",
        "12 placebos allow none",
        "-",
        "[-27.1235, inf]",
    ]


@pytest.mark.parametrize(("check", "status"), [(WEAK, "WEAK"), (BLOCK, "REFUSED")])
def test_an_average_of_a_randomised_treatment_stays_an_effect(check, status):
    """What is not shown is who responds: that claim is weak or refused, the average is not."""
    study = make_study(check, design="uplift", is_randomised=True)
    assert (study.claim.status, study.claim.term) == (status, "difference")
    page = page_of(study)
    assert status in page.sections["bottom-line"]
    assert "association" not in page.text.lower()
    assert "Average effect" in page.text
    # The claim itself is no effect: it is about who responds.
    assert "Estimated difference: −19.0" in page.sections["bottom-line"]
    assert "Estimated effect" not in page.text
    for wrong in ("not shown to be an effect", "no effect may be claimed", "against an effect",
                  "Do not report this as an effect", "nothing more"):  # fmt: skip
        assert wrong not in page.text
    assert "who responds is not" in page.sections["bottom-line"]
    assert "Report the average effect, and nobody as a responder." in page.sections["next"]
    assert sheets_of(study)[0].rows[0][0] == "average effect"


def test_an_interval_over_zero_is_no_effect_either():
    page = page_of(make_study(estimates=(make_estimate(ci_high=1.0),)))
    assert "the interval of average association includes 0" in page.text.replace("The", "the")


def test_deciding_clauses_name_what_they_do():
    bottom = page_of(make_study(WEAK, BLOCK)).sections["bottom-line"]
    blocked = bottom.index("Blocked by: Placebo in time. Association −19: found elsewhere.")
    assert blocked < bottom.index("Weakened by: Fit before. Error 2: too large.")
    skipped = (Skipped(name="drop_last_pre", reason="12 years are too few"),)
    bottom = page_of(make_study(skipped=skipped)).sections["bottom-line"]
    assert "Could not be run: Without the last steps before. 12 years are too few." in bottom


def test_many_clauses_are_counted():
    checks = [make_check(f"own_{k}", passed=False, severity="WARN") for k in range(7)]
    bottom = page_of(make_study(*checks)).sections["bottom-line"]
    assert bottom.count("Weakened by") == 4
    assert "3 more clauses below." in bottom


def test_every_refutation_has_its_row():
    skipped = (
        Skipped(name="drop_last_pre", reason="too few years"),
        Skipped(name="covariate_breaks", reason="no covariate", needed=False),
    )
    study = make_study(make_check("placebo_in_space"), WEAK, BLOCK, skipped=skipped)
    text = "".join(page_of(study).sections["refutations"].split())
    order = [
        "Placebo in time is as much found at dates where nothing happened? failed blocks the claim",
        "Fit before does the counterfactual follow the series before? failed weakens the claim",
        "does it hang on them? could not be run weakens the claim Too few years.",
        "could not be run not needed No covariate.",
        "Placebo in space do untreated units show as much? passed would block it",
    ]
    markdown = study_markdown(make_record(study))
    places = [text.index(words.replace(" ", "")) for words in order]
    assert places == sorted(places)
    assert "3 refutations ran, 2 failed; 1 could not be run" in markdown
    assert "| Fit before: does the counterfactual follow" in markdown


def test_without_refutations_it_says_so():
    study = make_study(refutations=())
    page = page_of(study)
    assert "Nothing has tried to refute it." in page.sections["refutations"]
    assert "WEAK" in page.sections["bottom-line"]


def test_recorded_values_stand_beside_rounded_ones():
    page = page_of()
    assert (-18.973412, "−19.0") in page.data
    assert (-9.314159, "−9.31") in page.data
    assert (-0.2411, "−24.1%") in page.data
    assert (0.33412345, "0.334") in page.data
    # numpy floats are floats, but their text is not that of a number.
    study = make_study(estimates=(make_estimate(estimate=np.float64(-18.5)),))
    assert (-18.5, "−18.5") in page_of(study).data


def test_open_and_missing_limits():
    rows = (
        make_estimate(ci_high=None),
        make_estimate(name="in 2000", ci_low=None, ci_high=-2.0),
        make_estimate(name="in 1999", ci_low=None, ci_high=None, reason="NOT_IDENTIFIED"),
    )
    text = page_of(make_study(estimates=rows)).sections["estimates"]
    assert "from −27.1 on" in text
    assert "up to −2.00" in text
    assert "– (the data do not identify the quantity)" in text


def test_levels_that_differ_stand_at_each_interval():
    rows = (make_estimate(), make_estimate(name="in 2000", confidence_level=0.9))
    text = page_of(make_study(estimates=rows)).sections["estimates"]
    assert "−27.1 to −9.31 (95%)" in text
    assert "−27.1 to −9.31 (90%)" in text


def test_standard_errors_have_a_column_only_where_there_are_some():
    assert "std. error" in page_of().sections["estimates"]
    study = make_study(estimates=(make_estimate(),))
    assert "std. error" not in page_of(study).sections["estimates"]


def test_tables_show_words_counts_and_moments():
    rows = [{"year": 1989, "n_units": 1234, "is_after": True, "p_value": 1e-9, "share": None}]
    study = make_study(tables=(table_of("cells", "Cells", rows),))
    text = page_of(study).sections["tables"]
    for shown in ("1989", "1,234", "yes", "< 0.001", "–", "is after", "n units"):
        assert shown in text


def test_limits_stand_as_from_and_to():
    rows = [{"effect": 1.5, "ci_low": 1.0, "effect_upper": 2.0}]
    markdown = study_markdown(make_record(make_study(tables=(table_of("cells", "Cells", rows),))))
    assert "| effect | from | to |\n|--:|--:|--:|\n| 1.50 | 1.00 | 2.00 |" in markdown


def test_a_long_table_is_cut_with_its_count():
    rows = [{"unit": f"u{k}.", "weight": k / 100} for k in range(200)]
    study = make_study(tables=(table_of("weights", "Weights", rows),))
    text = page_of(study, tables_at="results.json").sections["tables"]
    assert "The first 20 of 200 rows; all of them are in results.json as weights." in text
    assert "u19." in text
    assert "u20." not in text
    short = make_study(tables=(table_of("weights", "Weights", rows[:30]),))
    assert "u29." in page_of(short).sections["tables"]
    assert "The first" not in page_of(short).sections["tables"]


def test_an_empty_table_says_why():
    empty = StudyTable(
        name="gates", title="Groups", columns=("a",), rows=(), note="too few units for groups"
    )
    assert "Too few units for groups." in page_of(make_study(tables=(empty,))).sections["tables"]


def test_not_estimable_shows_its_reason_and_no_number():
    study = make_study(
        make_check("overlap", passed=False, message="12 % outside 0.01 to 0.99"),
        estimates=(), pictures=(), reason="NO_OVERLAP",
        reason_detail="propensity: the groups do not overlap",
    )  # fmt: skip
    page = page_of(study)
    assert "NOT ESTIMABLE" in page.sections["bottom-line"]
    assert "propensity: the groups do not overlap." in page.sections["bottom-line"]
    assert "Not estimable." in page.sections["estimates"]
    assert "12 % outside" in page.sections["refutations"]
    assert "pictures" not in page.sections
    assert [value for value, _ in page.data] == [0.33412345]
    assert "Give the design what it lacks" in page.sections["next"]


def test_lineage_names_every_input_and_the_command():
    text = page_of().sections["lineage"]
    for words in ("batch 9", "12 Mar 2026", "0123456789ab", "0.1.0", "data/prop99.csv", "ab" * 32,
                  "experiments synthetic-control --input"):  # fmt: skip
        assert words in text
    many = page_of(inputs={f"{k}.parquet": "cd" * 32 for k in range(40)}).sections["lineage"]
    assert "40 files, hash over all" in many
    bare = make_record(
        cutoff=None, as_of=None, owner=None, config_hash=None, reproduce=None, inputs={}
    )
    page = Page(render_study_report(bare))
    assert "batch" not in page.sections["lineage"]
    assert "from a file" in page.text


def test_next_steps_fit_the_claim():
    assert "Plan with the interval" in page_of().sections["next"]
    refused = page_of(make_study(BLOCK)).sections["next"]
    assert "Find out why it failed: Placebo in time." in refused
    weak = page_of(make_study(WEAK, skipped=(Skipped(name="density", reason="no rows"),))).sections[
        "next"
    ]
    assert "See whether it can be mended: Fit before." in weak
    assert "Get the data for what could not be run: Density at the cutoff." in weak
    uplift = page_of(make_study(design="uplift")).sections["next"]
    assert "left out at random" in uplift


def test_hostile_text_shows_as_typed():
    check = make_check("own_check", passed=False, message=HOSTILE)
    study = make_study(
        check, text=HOSTILE, facts=((HOSTILE, HOSTILE),), assumptions=(HOSTILE,),
        estimates=(make_estimate(name=HOSTILE, method=HOSTILE, unit=HOSTILE),),
        tables=(table_of("t", HOSTILE, [{HOSTILE: HOSTILE}], note=HOSTILE),),
        warnings=(HOSTILE,), skipped=(Skipped(name=HOSTILE, reason=HOSTILE),),
        pictures=(Picture(name="p", caption=HOSTILE, draw=draw),),
    )  # fmt: skip
    words = ("slug", "description", "owner", "config_hash", "reproduce", "display_unit")
    changes = dict.fromkeys(words, HOSTILE)
    record = make_record(study, **changes, inputs={HOSTILE: HOSTILE}, tables_at=HOSTILE)
    page = Page(render_study_report(record))
    assert_safe(page)
    assert HOSTILE in page.text
    markdown = study_markdown(record)
    for line in markdown.splitlines():
        # Outside the command, which is indented code, no tag and no link.
        assert line.startswith("    ") or "<img" not in line
        assert line.startswith("    ") or not re.search(r"(?<!\\)\[a(?<!\\)\]", line)
    widths = {
        len(re.findall(r"(?<!\\)\|", line))
        for line in markdown.split("## What tried")[1].split("## ")[0].splitlines()
        if line.startswith("|")
    }
    assert widths == {4}


def test_markdown_has_the_same_content_without_pictures():
    record = make_record(make_study(WEAK))
    markdown, page = study_markdown(record), Page(render_study_report(record))
    titles = re.findall(r"^## (.*)$", markdown, re.MULTILINE)
    assert titles == [
        "What happened, and the design", "What tried to refute it", "Estimated association",
        "Tables", "Lineage", "Next steps",
    ]  # fmt: skip
    assert "<data" not in markdown
    assert "<svg" not in markdown
    shown = {words for _, words in page.data}
    assert all(words.replace("~", "\\~") in markdown for words in shown)
    assert "**WEAK** Estimated association: −19.0 packs per head (average)" in markdown


def test_a_page_repeats_byte_for_byte():
    assert render_study_report(make_record()) == render_study_report(make_record())
    record = make_record(inputs={"b": "1", "a": "2"})
    other = dataclasses.replace(record, inputs={"a": "2", "b": "1"})
    assert render_study_report(record) == render_study_report(other)


def test_every_check_of_the_estimators_has_words():
    """Names are read from the source, so that a new check without words is noticed."""
    names = {
        node.name.removeprefix("check_")
        for file in Path(experiments_dagster.causal.__path__[0]).rglob("*checks.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
    }
    assert len(names) > 20
    other_names = {"placebo_rank": "placebo_in_space", "sensitivity": "leave_out_donor",
                   "placebo_outcomes": "placebo_outcome"}  # fmt: skip
    named_after = {"placebo_outcome", "placebo_period"}
    assert {other_names.get(name, name) for name in names - named_after} <= QUESTIONS.keys()
    for name in named_after:
        title, question = refutation_words(f"{name}_x")
        assert title.endswith(": x")
        assert question

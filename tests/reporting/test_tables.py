"""Markdown tables: escaped for the Dagster UI, true to the records."""

import pytest
from report_factories import make_experiment, make_look

from experiments_dagster.reporting.tables import (
    checks_table,
    effects_table,
    escape_markdown,
    ledger_table,
    markdown_table,
    verdict_table,
)

J = "\u2060"
GOLDEN = [
    ("plain text, 2.5% (look 3): fine", "plain text, 2.5% (look 3): fine"),
    ("conversion_7d", "conversion_7d"),
    ("a < b & c", "a &lt; b &amp; c"),
    ("a | b", "a \\| b"),
    ("`code`", "\\`code\\`"),
    ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
    ("[click](javascript:alert(1))", f"\\[click\\](javascript{J}:alert(1))"),
    ("![x](https://evil.example/x.png)", f"!\\[x\\](https{J}://evil.example/x.png)"),
    ("see www.evil.example", f"see www{J}.evil.example"),
    ("*bold* _soft_ ~~gone~~", "\\*bold\\* \\_soft\\_ \\~\\~gone\\~\\~"),
    ("back\\slash \\| pipe", "back\\\\slash \\\\\\| pipe"),
    ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
    ("two\nlines\r\n| and a cell", "two lines \\| and a cell"),
    ("up\u202edown", "up down"),
]


@pytest.mark.parametrize(("typed", "escaped"), GOLDEN)
def test_escape_golden(typed, escaped):
    assert escape_markdown(typed) == escaped


def test_table_has_one_line_per_row_and_as_many_cells():
    table = markdown_table(("a", "b"), [["1|2", "x\ny"], ["", "z"]], align="lr")
    assert table.splitlines() == [
        "| a | b |", "|:--|--:|", "| 1\\|2 | x y |", "| – | z |",
    ]  # fmt: skip


def test_table_refuses_uneven_rows():
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        markdown_table(("a", "b"), [["1"]], align="lr")


def test_verdict_table(looks):
    table = verdict_table([looks[-1]])
    assert table.splitlines()[2] == (
        "| button | 3 | SHIP | bold | +12.3% | +3.12% to +21.5% | 75% | "
        "the primary metric improved (crossed at look 3) |"
    )


def test_verdict_table_hides_what_must_not_be_read():
    table = verdict_table([make_look(3, invalid=True)])
    assert "+12.3%" not in table
    assert "+3.12%" not in table
    assert "– (a health check failed)" in table


def test_verdict_table_shows_the_reason_of_what_is_missing():
    table = verdict_table([make_look(1, missing="EMPTY_ARM")])
    assert "– (an arm has no units)" in table


def test_verdict_table_of_a_peek_names_the_confidence_sequence():
    table = verdict_table([make_look(None)])
    assert "+1.01% to +24.0% (confidence sequence)" in table


def test_effects_table_has_every_row(looks):
    lines = effects_table(looks[-1]).splitlines()
    assert len(lines) == 2 + len(looks[-1].effects)
    assert "1,234 + 1,250" in lines[2]
    assert "adjusted: lin" in "".join(lines)
    missing = effects_table(make_look(1, missing="ZERO_VARIANCE"))
    assert "– (the variance is zero)" in missing


def test_effects_table_has_corrected_p_values_only_where_there_are_any(looks):
    assert "corrected p" not in effects_table(looks[-1])
    first, *others = looks[-1].effects
    first = first.model_copy(update={"p_adjusted": 0.0456, "correction": "bh"})
    lines = effects_table(looks[-1].model_copy(update={"effects": (first, *others)})).splitlines()
    assert lines[0].endswith("| n | corrected p |")
    assert lines[2].endswith("| 0.0456 |")
    assert lines[3].endswith("| – |")


def test_ledger_table_names_the_metric_where_there_are_several(looks):
    assert "metric" not in ledger_table(looks).splitlines()[0]
    row = looks[-1].boundaries[0].model_copy(update={"metric": "orders", "crossed": "none"})
    futile = row.model_copy(update={"metric": "clicks", "is_futile": True})
    both = looks[-1].model_copy(update={"boundaries": (*looks[-1].boundaries, row, futile)})
    lines = ledger_table([both, make_look(None)]).splitlines()
    assert lines[0].startswith("| look | as of | metric | arm |")
    assert "| orders | bold |" in lines[3]
    assert "| futility |" in lines[4]
    assert len({line.count("|") for line in lines}) == 1


def test_checks_table_puts_failures_first():
    look = make_look(3, invalid=True)
    passed = look.checks[0].model_copy(update={"name": "other", "passed": True})
    table = checks_table(look.model_copy(update={"checks": (passed, look.checks[0])}))
    assert [line.split(" | ")[1] for line in table.splitlines()[2:]] == ["FAIL", "PASS"]


def test_ledger_table_has_every_look(looks):
    table = ledger_table([*looks, make_look(None)])
    lines = table.splitlines()[2:]
    assert len(lines) == 4
    assert "too early" in lines[0]
    assert "yes, better" in lines[2]
    assert lines[3].startswith("| peek |")
    assert "18 Jan 2026, 23:00 UTC" in lines[0]


def test_hostile_names_stay_inside_their_cells():
    name = "x | y\n|<img src=x onerror=alert(1)>`"
    experiment = make_experiment(hostile=name)
    looks = [make_look(n, experiment=experiment, reason=name) for n in (1, 2, 3)]
    for table in (verdict_table(looks), effects_table(looks[0]), ledger_table(looks)):
        assert "<" not in table
        columns = table.splitlines()[0].count("|")
        for line in table.splitlines():
            assert line.replace("\\|", "").count("|") == columns

"""The sections of a study's report: design, refutations, pictures, estimates, tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

from experiments_dagster.interventions.study import (
    Claim,
    Skipped,
    Study,
    StudyEstimate,
    StudyTable,
    Value,
)
from experiments_dagster.reporting.blocks import (
    PHONE,
    WIDE,
    Block,
    Bullets,
    Cell,
    Facts,
    Heading,
    Paragraph,
    Table,
    exact,
    exact_interval,
    figure,
    phrase,
)
from experiments_dagster.reporting.numbers import (
    DASH,
    MINUS,
    Format,
    clean_text,
    count,
    level,
    lift,
    missing,
    number,
    p_value,
    plural,
    reason_words,
    sentence,
    share,
    signed,
)
from experiments_dagster.reporting.refutation_words import refutation_words
from experiments_dagster.stats.records import CheckOutcome

MOST_ROWS, SHOWN_ROWS = 30, 20
SHORT_TEXT = 18
# Whole numbers in these columns are names of periods, not counts.
_MOMENTS = re.compile(r"year|period|cohort|first_treated|date|label|step")
_LOWER, _UPPER = re.compile(r"_(low|lower)$"), re.compile(r"_(high|upper)$")
_P_VALUES = re.compile(r"(^|_)p(_value|_adjusted)?$")
_MINUS = re.compile(r"(?<![\w.])-(?=[\d.])")
# The difference is what gets the name, not models that are called after effects.
_EFFECT = re.compile(r"\b(?<!fixed )(?<!fixed-)(?<!random )(?<!group-time )([Ee])ffect(s?)\b")


def called(text: str, claim: Claim) -> str:
    """What designs and checks say of the difference, in the word that the claim allows.

    Averages of a randomised treatment keep the word effect, whatever the claim.

    Examples:
        >>> weak = Claim(status="WEAK", clauses=("placebo_in_time: p = 0.4",))
        >>> called("Effect of two-way fixed effects", weak)
        'Association of two-way fixed effects'
    """
    if claim.term != "association":
        return text
    return _EFFECT.sub(lambda m: f"{'A' if m[1] == 'E' else 'a'}ssociation{m[2]}", text)


def told(message: str, claim: Claim) -> str:
    """A message of a check as a sentence, with real minus signs.

    Examples:
        >>> weak = Claim(status="WEAK", clauses=("placebo_in_time: p = 0.4",))
        >>> told("effect -19 on 2026-01-02, p = 1e-05", weak)
        'Association −19 on 2026-01-02, p = 1e-05.'
    """
    return sentence(_MINUS.sub(MINUS, called(message, claim)))


def unit_format(unit: str | None) -> Format:
    """How an estimate of this unit is shown: relative ones and shares in per cent."""
    return lift if unit and unit.startswith(("relative", "share")) else signed


def design_blocks(study: Study, description: str) -> list[Block]:
    """What happened, the estimand, the method and what has to hold."""
    rows: list[tuple[str, Cell]] = [
        ("What happened", description),
        ("Estimand", sentence(study.estimand)),
        ("Method", sentence(study.method)),
        *((name[:1].upper() + name[1:], value) for name, value in study.facts),
    ]
    blocks: list[Block] = [Facts(rows=tuple(rows))]
    if study.assumptions:
        words = "No data can show these. Whoever uses the number has to defend them."
        blocks += [
            Heading(words="What has to hold"),
            Paragraph(words=(words,), tone="muted"),
            Bullets(items=tuple(sentence(item) for item in study.assumptions)),
        ]
    return blocks


def refutation_blocks(study: Study) -> list[Block]:
    """Everything that tried to refute the difference: failed first, then what could not be run."""
    claim = study.claim
    if not study.refutations and not study.skipped:
        return [Paragraph(words=("Nothing has tried to refute it.",), tone="warning")]
    ordered = sorted(study.refutations, key=_urgency)
    rows = [_check_row(check, claim) for check in ordered]
    n_failed = sum(not check.passed for check in ordered)
    absent = [_skipped_row(item) for item in study.skipped]
    words = f"{plural(len(rows), 'refutation')} ran, {n_failed} failed"
    n_absent = sum(item.needed for item in study.skipped)
    if n_absent:
        words += f"; {n_absent} could not be run, and what was not tried has refuted nothing"
    return [
        Paragraph(words=(sentence(words),)),
        Table(
            header=("refutation", "result", "what was found"),
            rows=(*rows[:n_failed], *absent, *rows[n_failed:]),
            align="lnw",
            strong=frozenset(range(n_failed)),
        ),
    ]


def picture_blocks(study: Study) -> list[Block]:
    """Every picture, for a page and for a phone."""
    return [
        figure(picture.draw(WIDE), picture.draw(PHONE), called(picture.caption, study.claim))
        for picture in study.pictures
    ]


def estimate_blocks(study: Study, display_unit: str | None) -> list[Block]:
    """All estimates with their recorded values, and what a reader should know besides."""
    claim = study.claim
    remarks = [Paragraph(words=(told(words, claim),), tone="note") for words in study.warnings]
    if not study.estimates:
        why = sentence(study.reason_detail or reason_words(study.reason))
        return [Paragraph(words=(f"Not estimable. {why}",), tone="warning"), *remarks]
    blocks: list[Block] = []
    if claim.status == "REFUSED":
        words = "The claim is refused: these numbers describe the data and nothing more."
        if claim.is_randomised:
            words = "The claim is refused: averages are effects, who responds is not shown."
        blocks.append(Paragraph(words=(words,), tone="warning"))
    levels = {item.confidence_level for item in study.estimates}
    shared = levels.pop() if len(levels) == 1 else None
    limits = f"{level(shared)} interval" if shared else "interval"
    header = [claim.term, "estimate", limits, "p", "std. error"]
    rows = [_estimate_row(item, claim, shared) for item in study.estimates]
    if all(item.std_error is None for item in study.estimates):
        header, rows = header[:-1], [row[:-1] for row in rows]
    words = "The first row decides. Nobody was randomised; intervals hold if the assumptions do."
    if study.design == "uplift":
        words = "The first row decides."
    if display_unit:
        words = f"In {display_unit} unless the row says otherwise. {words}"
    blocks.append(
        Table(
            header=tuple(header),
            rows=tuple(rows),
            align="lrrrr"[: len(header)],
            caption=words,
            strong=frozenset({0}),
        )
    )
    blocks += remarks
    return blocks


def table_blocks(study: Study, tables_at: str) -> list[Block]:
    """Every table of the study; long ones are cut and say where the rest is."""
    return [block for table in study.tables for block in _table_blocks(table, study, tables_at)]


def estimate_interval(found: StudyEstimate, shown: Format) -> Cell:
    """Both limits, one where the other side is open, or why there is none."""
    low, high = _plain(found.ci_low), _plain(found.ci_high)
    if low is not None and high is None:
        return phrase("from {} on", exact(low, shown))
    if high is not None and low is None:
        return phrase("up to {}", exact(high, shown))
    return exact_interval(low, high, shown, found.reason)


def with_detail(words: str, detail: str) -> Cell:
    """A name with what stands smaller below it."""
    if not detail:
        return words
    return Markup("{} <small>{}</small>").format(clean_text(words), clean_text(detail))


def _urgency(check: CheckOutcome) -> tuple[bool, bool]:
    return check.passed, check.severity != "ERROR"


def _check_row(check: CheckOutcome, claim: Claim) -> tuple[Cell, ...]:
    what = "block" if check.severity == "ERROR" else "weaken"
    if check.passed:
        result = with_detail("passed", f"would {what} it")
    else:
        result = with_detail("failed", f"{what}s the claim")
    return with_detail(*refutation_words(check.name)), result, told(check.message, claim)


def _skipped_row(item: Skipped) -> tuple[Cell, ...]:
    result = with_detail("could not be run", "weakens the claim" if item.needed else "not needed")
    return with_detail(*refutation_words(item.name)), result, sentence(item.reason)


def _estimate_row(found: StudyEstimate, claim: Claim, shared: float | None) -> tuple[Cell, ...]:
    shown = unit_format(found.unit)
    limits = estimate_interval(found, shown)
    if shared is None and found.ci_low is not None:
        limits = phrase("{} ({})", limits, level(found.confidence_level))
    unit = f"; {found.unit}" if found.unit else ""
    return (
        with_detail(called(found.name, claim), f"{found.method}{unit}"),
        exact(_plain(found.estimate), shown),
        limits,
        exact(_plain(found.p_value), p_value),
        exact(_plain(found.std_error), share if shown is lift else number),
    )


def _plain(value: float | None) -> float | None:
    """A float whose text is a number: that of numpy's own floats is not."""
    return None if value is None else float(value)


def _table_blocks(table: StudyTable, study: Study, tables_at: str) -> list[Block]:
    claim = study.claim
    blocks: list[Block] = [Heading(words=called(table.title, claim))]
    if not table.rows:
        words = sentence(table.note) if table.note else "There are no rows."
        return [*blocks, Paragraph(words=(words,), tone="muted")]
    rows = table.rows if len(table.rows) <= MOST_ROWS else table.rows[:SHOWN_ROWS]
    remarks = [sentence(called(table.note, claim))] if table.note else []
    if len(rows) < len(table.rows):
        found = f"The first {len(rows)} of {count(len(table.rows))} rows"
        remarks.append(f"{found}; all of them are in {tables_at} as {table.name}.")
    shown = [_column_format(name) for name in table.columns]
    align = [_letter([row[k] for row in table.rows]) for k in range(len(table.columns))]
    return [
        *blocks,
        Table(
            header=tuple(_header(name, claim) for name in table.columns),
            rows=tuple(
                tuple(_value(value, form) for value, form in zip(row, shown, strict=True))
                for row in rows
            ),
            align="".join(align),
            caption=" ".join(remarks),
        ),
    ]


def _header(name: str, claim: Claim) -> str:
    """A column in words; limits stand beside what they limit, so they need no name of their own."""
    if name.startswith("band_"):
        return "band from" if name.endswith("_low") else "band to"
    if _LOWER.search(name):
        return "from"
    return "to" if _UPPER.search(name) else called(name.replace("_", " "), claim)


def _column_format(name: str) -> Format:
    if _P_VALUES.search(name):
        return p_value
    return _plain_whole if _MOMENTS.search(name) else number


def _plain_whole(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else number(value)


def _value(value: Value, shown: Format) -> Cell:
    """One cell: numbers carry their recorded value, what is absent is a dash."""
    if value is None:
        return missing(None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return _plain_whole(value) if shown is _plain_whole else count(value)
    if isinstance(value, float):
        return exact(float(value), shown)
    return value or DASH


def _letter(values: Sequence[Value]) -> str:
    """Numbers to the right, short words without breaks, long ones with."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int | float) for value in known):
        return "n" if all(isinstance(value, bool) for value in known) else "r"
    return "n" if all(len(str(value)) <= SHORT_TEXT for value in known) else "l"

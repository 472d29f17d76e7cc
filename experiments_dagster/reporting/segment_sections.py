"""The section of an experiment report about segments: exploratory, and labelled so."""

from __future__ import annotations

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Effect, Look, SegmentLevel, SegmentTest
from experiments_dagster.reporting.blocks import (
    PHONE,
    WIDE,
    Block,
    Bullets,
    Cell,
    Figure,
    Heading,
    Paragraph,
    Table,
    exact,
    figure,
    phrase,
)
from experiments_dagster.reporting.charts import ForestGroup, ForestRow, forest_plot
from experiments_dagster.reporting.metric_sections import difference_format
from experiments_dagster.reporting.numbers import (
    CORRECTIONS,
    Format,
    count,
    level,
    lift,
    number,
    p_value,
    plural,
    reason_words,
)
from experiments_dagster.reporting.trajectory import Estimand, deciding_effect

Levels = dict[tuple[str, str], Effect]


def segments(look: Look, experiment: Experiment) -> list[Block]:
    """The primary effect by level of each segment, and whether it differs between them."""
    if not look.segment_tests:
        return []
    words = (
        "Exploratory: ideas for a test of their own. Segments never feed the verdict, and the "
        "more levels there are, the more of them look special by chance."
    )
    blocks: list[Block] = [Paragraph(words=(words,), tone="note")]
    for arm in experiment.treatments:
        tests = [test for test in look.segment_tests if test.arm == arm]
        if not tests:
            continue
        if len(experiment.treatments) > 1:
            blocks.append(Heading(words=f"{arm} against {experiment.control}"))
        drawn = _forest(look, experiment, arm, tests)
        if drawn is not None:
            blocks.append(drawn)
        blocks += _tables(look, experiment, tests)
    return blocks


def _forest(
    look: Look, experiment: Experiment, arm: str, tests: list[SegmentTest]
) -> Figure | None:
    """The plot of all tested levels: of their lifts, or of differences where one has none."""
    metric = experiment.primary
    scales: tuple[tuple[Estimand, Format], ...] = (
        ("relative_difference", lift),
        ("difference", difference_format(metric)),
    )
    for estimand, shown in scales:
        overall = deciding_effect(look, experiment, metric.name, arm, estimand)
        rows = _by_level(look, arm, is_relative=estimand == "relative_difference")
        p_values = _by_level(look, arm, is_relative=False)
        groups = []
        is_complete = True
        for test in tests:
            tested = [found.level for found in test.levels if found.reason is None]
            drawn = [_forest_row(rows, p_values, test.segment, name) for name in tested]
            is_complete = is_complete and None not in drawn
            kept = tuple(row for row in drawn if row is not None)
            groups.append(ForestGroup(heading=test.segment, rows=kept, p_value=test.p_value))
        everyone = _row_of(overall, "all units") if overall is not None else None
        if is_complete and everyone is not None and any(group.rows for group in groups):
            return _figure(look, metric.name, arm, everyone, groups, shown)
    return None


def _figure(
    look: Look,
    metric: str,
    arm: str,
    everyone: ForestRow,
    groups: list[ForestGroup],
    shown: Format,
) -> Figure:
    title = f"{metric}: effect of {arm} by segment"
    quantity = "lift" if shown is lift else "difference"
    wide, phone = (
        forest_plot(everyone, groups, quantity=quantity, shown=shown, title=title, width=width)
        for width in (WIDE, PHONE)
    )
    rows = [row for row in look.segments if row.arm == arm]
    confidence = next((row.confidence_level for row in rows if row.confidence_level), None)
    method = next((row.correction for row in rows if row.correction), None)
    named = CORRECTIONS.get(method or "", method or "none")
    caption = (
        f"{metric}, {arm}: {quantity} by level"
        f"{f' with naive {level(confidence)} intervals' if confidence else ''}; larger dots have "
        "more units. p asks whether the level has any effect; it is corrected over all segments, "
        f"levels and arms ({named})."
    )
    return figure(wide, phone, caption)


def _by_level(look: Look, arm: str, *, is_relative: bool) -> Levels:
    return {
        (row.segment or "", row.level or ""): row
        for row in look.segments
        if row.arm == arm and row.is_relative == is_relative
    }


def _forest_row(rows: Levels, p_values: Levels, segment: str, name: str) -> ForestRow | None:
    found = rows.get((segment, name))
    if found is None:
        return None
    corrected = p_values.get((segment, name))
    return _row_of(found, name, p_adjusted=corrected.p_adjusted if corrected else None)


def _row_of(effect: Effect, name: str, p_adjusted: float | None = None) -> ForestRow | None:
    if effect.estimate is None or effect.ci_low is None or effect.ci_high is None:
        return None
    return ForestRow(
        name=name,
        n_units=(effect.n_control or 0) + (effect.n_treatment or 0),
        estimate=effect.estimate,
        low=effect.ci_low,
        high=effect.ci_high,
        p_adjusted=p_adjusted,
    )


def _tables(look: Look, experiment: Experiment, tests: list[SegmentTest]) -> list[Block]:
    """Each level against the rest, Cochran's Q per segment, and what was not tested and why."""
    shown = difference_format(experiment.primary)
    rows = [
        _level_row(test.segment, found, shown)
        for test in tests
        for found in test.levels
        if found.reason is None
    ]
    blocks: list[Block] = []
    if rows:
        unit = experiment.primary.display_unit
        caption = (
            "How far the effect in a level is from that among all other units"
            f"{f', in {unit}' if unit else ''}. p asks whether there is any gap; it is corrected "
            f"over the levels of the segment ({CORRECTIONS['bh']})."
        )
        header = ("segment", "level", "effect minus the rest", "std. error", "p", "corrected p")
        blocks.append(Table(header=header, rows=tuple(rows), align="llrrrr", caption=caption))
    blocks.append(Bullets(items=tuple(_omnibus(test) for test in tests)))
    untested = [
        phrase("{} {}: {}", test.segment, found.level, _reason(look, test, found))
        for test in tests
        for found in test.levels
        if found.reason is not None
    ]
    if untested:
        listed = phrase("Not tested and not drawn: {}.", "; ".join(untested))
        blocks.append(Paragraph(words=(listed,), tone="muted"))
    return blocks


def _level_row(segment: str, found: SegmentLevel, shown: Format) -> tuple[Cell, ...]:
    return (
        segment,
        found.level,
        exact(found.difference, shown),
        exact(found.std_error, number),
        exact(found.p_value, p_value),
        exact(found.p_adjusted, p_value),
    )


def _omnibus(test: SegmentTest) -> Cell:
    if test.q is None or test.p_value is None:
        return phrase("{}: no test over the levels, fewer than two are large enough.", test.segment)
    return phrase(
        "{}: is the effect the same in all levels? Cochran's Q {} on {} of freedom, p {}.",
        test.segment,
        exact(test.q, number),
        plural(test.degrees_of_freedom or 0, "degree"),
        exact(test.p_value, p_value),
    )


def _reason(look: Look, test: SegmentTest, found: SegmentLevel) -> str:
    """Why a level was not tested, with its units where they are known."""
    rows = _by_level(look, test.arm, is_relative=False)
    effect = rows.get((test.segment, found.level))
    words = reason_words(found.reason)
    if effect is None or effect.n_control is None or effect.n_treatment is None:
        return words
    return f"{words} ({count(effect.n_control)} + {count(effect.n_treatment)})"

"""The sections of an experiment report that hold effects; the primary result and its looks."""

from __future__ import annotations

from collections.abc import Sequence

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Adjustment, Effect, Look
from experiments_dagster.reporting.blocks import (
    PHONE,
    WIDE,
    Block,
    Cell,
    Heading,
    Paragraph,
    Section,
    Table,
    exact,
    exact_interval,
    figure,
    phrase,
)
from experiments_dagster.reporting.charts import boundary_chart, look_trajectory
from experiments_dagster.reporting.metric_sections import (
    NAIVE,
    difference_format,
    exploratory,
    guardrails,
    level_format,
)
from experiments_dagster.reporting.numbers import (
    DASH,
    Format,
    alpha,
    count,
    day,
    level,
    lift,
    number,
    p_value,
    reason_words,
    share,
    signed,
)
from experiments_dagster.reporting.segment_sections import segments
from experiments_dagster.reporting.sentences import boundary_note, sequential_limits, truth_sentence
from experiments_dagster.reporting.success_sections import safety, successes
from experiments_dagster.reporting.tables import crossed_words
from experiments_dagster.reporting.trajectory import (
    LookPoint,
    anytime_of,
    deciding_effect,
    look_points,
)
from experiments_dagster.reporting.trust_sections import novelty, sensitivity, trust


def effect_sections(
    looks: Sequence[Look], experiment: Experiment, *, hidden_because: str
) -> list[Section]:
    """All sections with effects, folded away under a reason where there is one."""
    look = looks[-1]
    parts = [
        ("primary", "Primary result", _primary(look, experiment)),
        ("success", "Success metrics", successes(looks, experiment)),
        ("trust", "How far to trust this", trust(look, experiment)),
        ("sequential", "Looks and alpha ledger", _sequential(looks, experiment)),
        ("guardrails", "Guardrails", guardrails(looks, experiment)),
        ("safety", "Safety monitor", safety(looks, experiment)),
        ("secondary", "Exploratory metrics", exploratory(look, experiment)),
        ("segments", "Segments", segments(look, experiment)),
        ("novelty", "Effect by day since exposure", novelty(look, experiment)),
        ("sensitivity", "Sensitivity to the method", sensitivity(look, experiment)),
    ]
    return [
        Section(name=name, title=title, blocks=tuple(blocks), hidden_because=hidden_because)
        for name, title, blocks in parts
        if blocks
    ]


def _primary(look: Look, experiment: Experiment) -> list[Block]:
    blocks: list[Block] = []
    for arm in experiment.treatments:
        if len(experiment.treatments) > 1:
            blocks.append(Heading(words=f"{arm} against {experiment.control}"))
        blocks += [_primary_table(look, experiment, arm), *_primary_notes(look, experiment, arm)]
    return blocks


def _primary_table(look: Look, experiment: Experiment, arm: str) -> Table:
    metric = experiment.primary
    name, limits = sequential_limits(look, experiment, arm)
    effect = deciding_effect(look, experiment, metric.name, arm, "relative_difference")
    kind = "adjusted" if experiment.adjusts else "unadjusted"
    reason = effect.reason if effect else "IMMATURE"
    lift_cell = exact(effect.estimate if effect else None, lift, reason)
    rows: list[tuple[Cell, ...]] = [
        (_row_name(f"Lift, {kind}", f"{name}: decides"), lift_cell, limits, DASH)
    ]
    sequence = anytime_of(look, arm)
    anytime = f"{level(1 - experiment.alpha_per_hypothesis)} confidence sequence"
    if sequence is not None and not name.endswith("sequence"):
        rows.append(
            (
                _row_name(f"Lift, {kind}", f"{anytime}: valid at any time"),
                lift_cell,
                exact_interval(sequence.relative_low, sequence.relative_high, lift),
                exact(sequence.p_value, p_value),
            )
        )
    for estimand, label in (("relative_difference", "Lift"), ("difference", "Difference")):
        for adjusted in (True, False) if experiment.adjusts else (False,):
            found = look.effect(metric.name, arm, estimand, adjusted=adjusted)
            if found is not None:
                shown = lift if label == "Lift" else difference_format(metric)
                rows.append(_naive_row(found, label, shown))
    unit = f" Differences in {metric.display_unit}." if metric.display_unit else ""
    return Table(
        header=(metric.name, "estimate", "interval", "p"),
        rows=tuple(rows),
        align="lrrr",
        strong=frozenset({0}),
        caption=f"{_means(effect, metric)}{unit} {NAIVE}.".strip(),
    )


def _naive_row(effect: Effect, label: str, shown: Format) -> tuple[Cell, ...]:
    kind = "adjusted" if effect.is_adjusted else "unadjusted"
    limits = exact_interval(effect.ci_low, effect.ci_high, shown, effect.reason)
    confidence = f"{level(effect.confidence_level)} " if effect.confidence_level else ""
    return (
        _row_name(f"{label}, {kind}", f"naive {confidence}interval and p"),
        exact(effect.estimate, shown, effect.reason),
        limits if effect.status == "ok" else DASH,
        exact(effect.p_value, p_value),
    )


def _row_name(quantity: str, basis: str) -> Cell:
    return phrase("{}<small>{}</small>", quantity, basis)


def _means(effect: Effect | None, metric: Metric) -> str:
    if effect is None or effect.control_mean is None or effect.treatment_mean is None:
        return ""
    shown = level_format(metric)
    words = (
        f"Observed {_level_words(metric)}: {effect.control} "
        f"{shown(effect.control_mean)}, {effect.arm} {shown(effect.treatment_mean)}."
    )
    if effect.n_control is None or effect.n_treatment is None:
        return words
    return f"{words} Units: {count(effect.n_control)} and {count(effect.n_treatment)}."


def _level_words(metric: Metric) -> str:
    if metric.quantile is not None:
        return f"{share(metric.quantile)} quantile"
    return "ratio" if metric.is_ratio or metric.summary_ratio else "mean"


def _primary_notes(look: Look, experiment: Experiment, arm: str) -> list[Block]:
    words: list[Cell] = []
    for row in look.adjustments:
        if (row.metric, row.arm) == (experiment.primary.name, arm):
            words.append(_adjustment_sentence(row, experiment))
            if row.dropped_covariates:
                words.append(phrase("Dropped covariates: {}.", ", ".join(row.dropped_covariates)))
    truth = truth_sentence(look, experiment, arm)
    if truth is not None:
        words.append(truth)
    blocks: list[Block] = [Paragraph(words=tuple(words))] if words else []
    boundary = look.boundary(experiment.primary.name, arm)
    note = boundary_note(boundary) if boundary else None
    if note:
        blocks.append(Paragraph(words=(note,), tone="note"))
    sequence = anytime_of(look, arm)
    if sequence is not None and sequence.flag:
        suspect = "The confidence sequences of the looks do not overlap: the effect or the data "
        blocks.append(Paragraph(words=(suspect + "changed over time.",), tone="warning"))
    return blocks


def _adjustment_sentence(row: Adjustment, experiment: Experiment) -> Cell:
    estimator = experiment.plan.estimator
    if estimator.kind == "post_stratified":
        name = f"Post-stratification by {', '.join(experiment.stratify_by)}"
    else:
        name = f"CUPED with {estimator.covariate_days} days before exposure"
    words = phrase(
        "{} {} the variance by {}",
        name,
        "reduced" if row.variance_reduction >= 0 else "raised",
        exact(abs(row.variance_reduction), share),
    )
    if row.correlation is None:
        return phrase("{}.", words)
    correlation = exact(row.correlation, number)
    return phrase("{}; the correlation with the pre-period is {}.", words, correlation)


def _sequential(looks: Sequence[Look], experiment: Experiment) -> list[Block]:
    blocks: list[Block] = []
    for arm in experiment.treatments:
        if len(experiment.treatments) > 1:
            blocks.append(Heading(words=f"{arm} against {experiment.control}"))
        points = look_points(looks, experiment, arm)
        caption = (
            f"{experiment.primary.name}, {arm}: lift at each look. Cut intervals carry an arrow."
        )
        blocks.append(
            figure(
                look_trajectory(looks, experiment, arm, width=WIDE),
                look_trajectory(looks, experiment, arm, width=PHONE),
                caption,
            )
        )
        if experiment.is_group_sequential:
            caption = (
                f"{arm}: test statistic on the clock of information; positive is the desired "
                "direction. Below it the alpha spent so far."
            )
            if any(
                point.boundary and point.boundary.futility_bound is not None for point in points
            ):
                caption += (
                    " Below the futility bound success has become unlikely; it is not binding, and "
                    "going on past it costs no type I error."
                )
            blocks.append(
                figure(
                    boundary_chart(looks, experiment, arm, width=WIDE),
                    boundary_chart(looks, experiment, arm, width=PHONE),
                    caption,
                )
            )
        blocks.append(_ledger(looks, experiment, arm, points))
    return blocks


def _ledger(
    looks: Sequence[Look], experiment: Experiment, arm: str, points: Sequence[LookPoint]
) -> Block:
    rows = tuple(_ledger_row(point) for point in points)
    if not experiment.is_group_sequential:
        words = "The plan spends no alpha by look: the confidence sequence holds at all times."
        return Paragraph(words=(words,), tone="muted")
    spent = [row for look in looks if (row := look.boundary(experiment.primary.name, arm))]
    caption: Cell = f"Alpha ledger of {arm}: nothing is spent yet."
    if spent:
        caption = phrase(
            "Alpha ledger of {}: {} of {} spent, {} left.",
            arm,
            exact(spent[-1].alpha_spent, alpha),
            exact(spent[-1].alpha, alpha),
            alpha(max(spent[-1].alpha - spent[-1].alpha_spent, 0.0)),
        )
    names = ("look", "date", "information", "z", "critical value", "futility bound",
             "alpha spent", "crossed", "note")  # fmt: skip
    kept = [
        k
        for k, name in enumerate(names)
        if name not in ("futility bound", "note") or any(row[k] not in ("", DASH) for row in rows)
    ]
    return Table(
        header=tuple(names[k] for k in kept),
        rows=tuple(tuple(row[k] for k in kept) for row in rows),
        align="".join("lnrrrrrnl"[k] for k in kept),
        caption=caption,
    )


def _ledger_row(point: LookPoint) -> tuple[Cell, ...]:
    row, start = point.boundary, (point.name, day(point.date))
    if row is None:
        note = reason_words(point.reason) or "the arm has had its last look"
        return (*start, *[DASH] * 6, "a peek spends nothing" if point.name == "peek" else note)
    return (
        *start,
        exact(row.information_fraction, share),
        exact(row.statistic, signed),
        exact(row.critical_value, number),
        exact(row.futility_bound, signed),
        exact(row.alpha_spent, alpha),
        crossed_words(row),
        reason_words(row.no_stop_reason),
    )

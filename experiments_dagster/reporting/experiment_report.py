"""The report of an experiment: one self-contained HTML page from its plan and its looks.

Every sentence comes from the records. No clock is read and nothing is fetched, so the same looks
give the same page. The salt never gets here; only the plan's hash does.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Look
from experiments_dagster.reporting.blocks import (
    Block,
    Bullets,
    Cell,
    Paragraph,
    Report,
    Section,
    Table,
    Tile,
    badge_of,
    exact,
    phrase,
    render,
)
from experiments_dagster.reporting.effect_sections import effect_sections
from experiments_dagster.reporting.metric_sections import information_facts
from experiments_dagster.reporting.numbers import (
    DASH,
    alpha,
    count,
    lift,
    moment,
    plural,
    reason_words,
    sentence,
    share,
)
from experiments_dagster.reporting.plan_sections import (
    business,
    health,
    lineage,
    method_card,
    tested,
)
from experiments_dagster.reporting.sentences import (
    deciding_clause,
    direction_words,
    effect_sentence,
    headline,
    next_steps,
    sequential_limits,
)
from experiments_dagster.reporting.tables import hides_effects
from experiments_dagster.reporting.trajectory import (
    deciding_effect,
    fraction_of,
    harm_shown,
    last_boundary,
    planned_count,
    success_crossing,
)
from experiments_dagster.reporting.trust_sections import suspicion


def render_experiment_report(experiment: Experiment, looks: Sequence[Look]) -> str:
    """The page of the last of the given looks, with the earlier ones as its history.

    Args:
        experiment: The plan.
        looks: Recorded looks in order; an unplanned peek may be the last.

    Raises:
        ValueError: No look, or a look of another experiment.
    """
    if not looks:
        msg = f"{experiment.slug}: no look to report. Hint: experiments run {experiment.slug}"
        raise ValueError(msg)
    strangers = {look.experiment for look in looks} - {experiment.slug}
    if strangers:
        msg = f"{experiment.slug}: looks of {', '.join(sorted(strangers))} do not belong here"
        raise ValueError(msg)
    look = looks[-1]
    hidden = _hidden_because(look)
    sections = [
        Section(name="tested", title="What was tested", blocks=tuple(tested(look, experiment))),
        Section(name="health", title="Health", blocks=tuple(health(looks, experiment))),
        *effect_sections(looks, experiment, hidden_because=hidden),
        Section(name="power", title="Power", blocks=(information_facts(look, experiment),)),
        *business(experiment),
        Section(
            name="method",
            title="Method and assumptions",
            blocks=tuple(method_card(look, experiment)),
        ),
        Section(name="lineage", title="Lineage", blocks=tuple(lineage(look, experiment))),
        Section(
            name="next",
            title="Next steps",
            blocks=(Bullets(items=tuple(next_steps(look, experiment, looks)), numbered=True),),
        ),
    ]
    return render(
        Report(
            kind="Experiment report",
            title=experiment.slug,
            lead=experiment.spec.hypothesis.primary,
            meta=_meta(look, experiment),
            badge=badge_of(look.verdict),
            headline=headline(look),
            reasons=_reasons(looks, experiment, is_hidden=bool(hidden)),
            tiles=_tiles(looks, experiment, is_hidden=bool(hidden)),
            notes=tuple(_notes(looks, experiment, is_hidden=bool(hidden))),
            sections=tuple(sections),
            footer=f"Generated from look {look.look_id} by experiments_dagster "
            f"{look.code_version}. Plan {look.plan_hash}.",
        )
    )


def _hidden_because(look: Look) -> str:
    if not hides_effects(look):
        return ""
    failed = ", ".join(dict.fromkeys(check.name for check in look.checks if check.blocks))
    return f"Hidden, because a health check failed ({failed or look.reason}). Show it anyway."


def _meta(look: Look, experiment: Experiment) -> tuple[str, ...]:
    planned = planned_count(experiment)
    name = "unplanned peek" if look.look is None else f"look {look.planned_index}"
    if planned is not None and look.look is not None:
        name += f" of {planned}"
    return (
        f"phase {look.phase}",
        name,
        f"data before {moment(look.as_of, experiment.timezone)} {experiment.timezone}",
        f"owner {experiment.owner}",
    )


def _reasons(looks: Sequence[Look], experiment: Experiment, *, is_hidden: bool) -> tuple[Cell, ...]:
    look = looks[-1]
    rows: list[Cell] = [
        f"{sentence(decision.reason)} Decided by {deciding_clause(decision)}."
        for decision in look.decisions
        if decision.arm == look.arm
    ]
    if is_hidden:
        return tuple(rows)
    rows.append(effect_sentence(look, experiment, look.arm))
    rows += [
        effect_sentence(look, experiment, look.arm, metric.name)
        for metric in experiment.success
        if success_crossing(looks, experiment, metric, look.arm, "desired")
        or success_crossing(looks, experiment, metric, look.arm, "undesired")
    ]
    return tuple(rows)


def _tiles(looks: Sequence[Look], experiment: Experiment, *, is_hidden: bool) -> tuple[Tile, ...]:
    look = looks[-1]
    exposed = sum(look.n_exposed.values())
    units = Tile(
        label=f"Units exposed ({experiment.unit})",
        value=count(exposed),
        detail=f"{count(look.n_mature.get(experiment.primary.name, 0))} with a closed window",
    )
    if is_hidden:
        failed = [check for check in look.checks if check.blocks]
        return (Tile(label="Failed checks", value=count(len(failed))), units)
    metric = experiment.primary.name
    effect = deciding_effect(look, experiment, metric, look.arm, "relative_difference")
    row = last_boundary(looks, metric, look.arm)
    name, limits = sequential_limits(look, experiment, look.arm)
    is_known = effect is not None and effect.status == "ok"
    reason = effect.reason if effect else "IMMATURE"
    tiles = [
        Tile(
            label=f"Lift of {metric} ({direction_words(experiment)})",
            value=exact(effect.estimate, lift) if effect and is_known else DASH,
            detail=phrase("{}, {}", limits, name) if is_known else reason_words(reason),
        ),
        units,
    ]
    fraction = fraction_of(look, metric, look.arm)
    if fraction is not None:
        value = exact(fraction, share)
        tiles.append(Tile(label="Information", value=value, detail="of the planned"))
    if row is not None:
        spent, total = exact(row.alpha_spent, alpha), f"of {alpha(row.alpha)}"
        tiles.append(Tile(label="Alpha spent", value=spent, detail=total))
    return tuple(tiles)


def _notes(looks: Sequence[Look], experiment: Experiment, *, is_hidden: bool) -> list[Block]:
    look = looks[-1]
    notes: list[Block] = []
    if look.plan_hash != experiment.plan_hash:
        words = (
            f"The configuration has changed since this look: plan {experiment.plan_hash} now, "
            f"{look.plan_hash} then. Names and margins on this page are those of now."
        )
        notes.append(Paragraph(words=(words,), tone="warning"))
    if look.look is None:
        words = (
            "This is an unplanned peek: it is not recorded and spends no alpha. Only the "
            "confidence sequence is valid here."
        )
        notes.append(Paragraph(words=(words,), tone="note"))
    notes += [
        Paragraph(words=(_harm_sentence(looks, experiment, decision.arm),), tone="warning")
        for decision in look.decisions
        if decision.is_harmful
    ]
    warning = None if is_hidden else suspicion(look)
    if warning is not None:
        notes.append(Paragraph(words=(warning,), tone="warning"))
    if len(look.decisions) > 1:
        rows = tuple(
            (
                d.arm,
                badge_of(d.verdict).words,
                phrase("{}<small>{}</small>", d.reason, deciding_clause(d)),
            )
            for d in look.decisions
        )
        strong = frozenset(k for k, d in enumerate(look.decisions) if d.arm == look.arm)
        header = ("arm", "verdict", "why")
        caption = f"{plural(len(rows), 'treatment arm')}; the marked one stands for the experiment."
        notes.append(Table(header=header, rows=rows, align="nnw", caption=caption, strong=strong))
    return notes


def _harm_sentence(looks: Sequence[Look], experiment: Experiment, arm: str) -> str:
    """Which metrics got worse in an arm, by the looks or by the safety monitor."""
    names = [
        metric.name
        for metric in experiment.success_metrics
        if success_crossing(looks, experiment, metric, arm, "undesired")
    ]
    names += [metric.name for metric in experiment.metrics if harm_shown(looks, metric.name, arm)]
    harmed = ", ".join(dict.fromkeys(names)) or "the primary metric"
    return f"Harm: {harmed} moved the wrong way in {arm}."

"""Where every experiment and intervention stands, for the terminal and as JSON."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments_dagster.cli.numbers import interval, p_value, percent
from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.interventions.estimate import read_summary
from experiments_dagster.looks.calendar import is_complete
from experiments_dagster.looks.publish import last_peek
from experiments_dagster.looks.records import Effect, Look
from experiments_dagster.looks.take import deciding_look, open_ledger, recorded_looks
from experiments_dagster.storage.manifest import Manifest

COLOURS = {"SHIP": "green", "DO_NOT_SHIP": "red", "INVALID": "red", "INCOMPLETE": "red"}


def status_document(
    project: Project, manifest: Manifest, slugs: list[str] | None = None
) -> dict[str, Any]:
    """slug, state, verdict, reason, looks, information_fraction and the last look's effects."""
    rows = []
    for slug in slugs or list(project.experiments):
        experiment = project.experiments[slug]
        looks = recorded_looks(open_ledger(manifest, experiment))
        look = looks[-1] if looks else last_peek(manifest.layout, experiment)
        rows.append(_experiment_row(experiment, looks, look))
    interventions = [
        summary
        for slug in project.interventions
        if (summary := read_summary(manifest.layout, slug)) is not None
    ]
    return {"experiments": rows, "interventions": [] if slugs else interventions}


def _experiment_row(experiment: Experiment, looks: list[Look], look: Look | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "slug": experiment.slug,
        "state": "waiting" if look is None else "running",
        "verdict": None,
        "reason": "no look has been taken yet",
        "looks": len(looks),
        "information_fraction": None,
        "arms": [],
        "metrics": [],
    }
    if look is None:
        return row
    if is_complete(experiment, looks):
        row["state"] = "complete"
    fractions = list(look.information_fractions.values())
    dumped = look.model_dump(mode="json")
    return row | {
        "look": look.look_id,
        "as_of": look.as_of,
        "verdict": look.verdict,
        "reason": look.reason,
        "information_fraction": min(fractions) if fractions else None,
        "arms": [decision.model_dump(mode="json") for decision in look.decisions],
        # Effects of an unfair comparison are not to be read by scripts either.
        "metrics": [] if look.is_blocked else dumped["effects"],
        "boundaries": [] if look.is_blocked else dumped["boundaries"],
        "anytime": [] if look.is_blocked else dumped["anytime"],
        "checks": dumped["checks"],
    }


def verdict_table(project: Project, manifest: Manifest, slugs: list[str] | None = None) -> Table:
    """Two lines per experiment and arm: what decides, and the naive numbers beside it."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("experiment / arm", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("looks", justify="right")
    table.add_column("estimate", no_wrap=True)
    table.add_column("lift", justify="right", no_wrap=True)
    table.add_column("std. error", justify="right", no_wrap=True)
    table.add_column("interval", justify="right", no_wrap=True)
    table.add_column("truth", justify="right", no_wrap=True)
    table.add_column("variance removed", justify="right", no_wrap=True)
    for slug in slugs or list(project.experiments):
        experiment = project.experiments[slug]
        looks = recorded_looks(open_ledger(manifest, experiment))
        if not looks:
            table.add_row(escape(slug), "-", "0", "no look yet")
            continue
        for arm in experiment.treatments:
            for row in _arm_rows(experiment, looks, arm):
                table.add_row(*row)
    return table


def _arm_rows(experiment: Experiment, looks: list[Look], arm: str) -> list[list[str]]:
    """The deciding numbers of an arm, and below them the naive ones."""
    look, metric = deciding_look(experiment, arm, looks), experiment.primary.name
    decision = next(item for item in looks[-1].decisions if item.arm == arm)
    colour = COLOURS.get(decision.verdict, "yellow")
    verdict = f"[bold {colour}]{decision.verdict}[/]"
    if decision.verdict == "INVALID":
        hidden = "effects are hidden: the comparison is not fair"
        return [[escape(experiment.slug), verdict, str(len(looks)), hidden], [f"  {escape(arm)}"]]
    deciding = look.effect(metric, arm, "relative_difference", adjusted=experiment.adjusts)
    naive = look.effect(metric, arm, "relative_difference", adjusted=False)
    boundary = look.boundary(metric, arm)
    saved = next((row for row in look.adjustments if (row.metric, row.arm) == (metric, arm)), None)
    truth = (experiment.spec.truth or {}).get(arm)
    limits, kind = "-", "sequential"
    if boundary is not None:
        limits = interval(boundary.limit_low, boundary.limit_high)
    sequence = look.anytime_of(arm)
    if sequence is not None and not experiment.is_group_sequential:
        limits, kind = interval(sequence.relative_low, sequence.relative_high), "anytime"
    return [
        [
            escape(experiment.slug),
            verdict,
            str(len(looks)),
            f"CUPED, {kind}" if experiment.adjusts else kind,
            *_lift_cells(deciding),
            limits,
            percent(truth, 0) if truth is not None else "-",
            f"{saved.variance_reduction:.0%}" if saved else "-",
        ],
        [
            f"  {escape(arm)}",
            "",
            "",
            "[dim]naive[/]",
            *_lift_cells(naive),
            interval(naive.ci_low, naive.ci_high) if naive else "-",
        ],
    ]


def _lift_cells(effect: Effect | None) -> list[str]:
    if effect is None or effect.estimate is None or effect.std_error is None:
        return [effect.reason or "-" if effect else "-", "-"]
    return [percent(effect.estimate), f"{effect.std_error:.7f}"]


def reason_lines(document: dict[str, Any]) -> list[str]:
    """One sentence per experiment and arm: why its verdict is what it is."""
    lines = []
    for row in document["experiments"]:
        lines += [
            f"{row['slug']} / {arm['arm']}: {arm['verdict']}: {arm['reason']}"
            for arm in row["arms"]
        ]
    for summary in document["interventions"]:
        total = summary["total"]
        if total is None:
            lines.append(f"{summary['intervention']}: not estimable yet ({summary['reason']})")
            continue
        lines.append(
            f"{summary['intervention']} (not randomised): {total['estimate']:+,.0f} in total "
            f"[{total['ci_low']:+,.0f}, {total['ci_high']:+,.0f}] against the counterfactual, "
            f"placebo p {p_value(summary['placebo_p_value'])}"
        )
    return lines

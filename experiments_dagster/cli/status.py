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
from experiments_dagster.looks.records import Look
from experiments_dagster.looks.take import open_ledger, recorded_looks
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
        look = looks[-1] if looks else last_peek(manifest.layout, slug)
        rows.append(_experiment_row(experiment, looks, look))
    interventions = [
        summary
        for slug in project.interventions
        if (summary := read_summary(manifest.layout, slug)) is not None
    ]
    return {"experiments": rows, "interventions": [] if slugs else interventions}


def _experiment_row(
    experiment: Experiment, looks: list[Look], look: Look | None
) -> dict[str, Any]:
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
    return row | {
        "look": look.look_id,
        "as_of": look.as_of,
        "verdict": look.verdict,
        "reason": look.reason,
        "information_fraction": min(fractions) if fractions else None,
        "arms": [decision.model_dump(mode="json") for decision in look.decisions],
        "metrics": [effect.model_dump(mode="json") for effect in look.effects],
    }


def verdict_table(project: Project, manifest: Manifest, slugs: list[str] | None = None) -> Table:
    """One line per experiment and arm: verdict, adjusted and naive lift, truth, variance saved."""
    table = Table(title="Verdicts", title_justify="left", pad_edge=False, box=None, padding=(0, 2))
    for name in ("experiment", "arm", "looks", "verdict"):
        table.add_column(name, no_wrap=True)
    table.add_column("lift (CUPED)\nstd. error", justify="right", no_wrap=True)
    table.add_column("sequential interval\nof the lift", justify="right", no_wrap=True)
    table.add_column("naive lift and 95 % interval\n(no CUPED, as if one look)", justify="right")
    table.add_column("truth", justify="right")
    table.add_column("variance\nremoved", justify="right")
    for slug in slugs or list(project.experiments):
        experiment = project.experiments[slug]
        looks = recorded_looks(open_ledger(manifest, experiment))
        if not looks:
            table.add_row(slug, "-", "0", "-", "-", "-", "-", "-", "-")
            continue
        for arm in experiment.treatments:
            table.add_row(*_arm_cells(experiment, looks, arm))
    return table


def _arm_cells(experiment: Experiment, looks: list[Look], arm: str) -> list[str]:
    look, metric = looks[-1], experiment.primary.name
    decision = next(item for item in look.decisions if item.arm == arm)
    colour = COLOURS.get(decision.verdict, "yellow")
    adjusted = look.effect(metric, arm, "relative_difference", adjusted=experiment.adjusts)
    naive = look.effect(metric, arm, "relative_difference", adjusted=False)
    boundary = look.boundary(metric, arm)
    saved = next(
        (row for row in look.adjustments if (row.metric, row.arm) == (metric, arm)), None
    )
    truth = (experiment.spec.truth or {}).get(arm)
    lift, naive_text = "-", "-"
    if decision.verdict != "INVALID":
        if adjusted is not None and adjusted.estimate is not None:
            lift = f"{percent(adjusted.estimate)} ({adjusted.std_error:.4f})"
        if naive is not None and naive.estimate is not None:
            limits = interval(naive.ci_low, naive.ci_high)
            naive_text = f"{percent(naive.estimate)} {limits} p {p_value(naive.p_value)}"
    shown = boundary is not None and decision.verdict != "INVALID"
    return [
        escape(experiment.slug),
        escape(arm),
        str(len(looks)),
        f"[{colour}]{decision.verdict}[/]",
        lift,
        interval(boundary.limit_low, boundary.limit_high) if shown and boundary else "-",
        naive_text,
        percent(truth, 0) if truth is not None else "-",
        f"{saved.variance_reduction:.0%}" if saved else "-",
    ]


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
        lines.append(
            f"{summary['intervention']} (not randomised): {total['estimate']:+,.0f} in total "
            f"[{total['ci_low']:+,.0f}, {total['ci_high']:+,.0f}] against the counterfactual, "
            f"placebo p {p_value(summary['placebo_p_value'])}"
        )
    return lines

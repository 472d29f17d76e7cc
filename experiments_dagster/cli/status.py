"""Where every experiment and intervention stands, for the terminal and as JSON."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments_dagster.cli.numbers import interval, p_value, percent
from experiments_dagster.config.intervention import TimeSeriesSpec
from experiments_dagster.config.project import Intervention, Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.study_frames import not_ready
from experiments_dagster.interventions.claim_tables import has_changed
from experiments_dagster.interventions.estimate import read_summary
from experiments_dagster.interventions.publish import read_study
from experiments_dagster.interventions.study import Claim
from experiments_dagster.looks.calendar import is_complete
from experiments_dagster.looks.publish import last_peek
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.records import Effect, Look
from experiments_dagster.looks.take import deciding_look, open_ledger
from experiments_dagster.reporting.study_sections import called
from experiments_dagster.storage.manifest import Manifest

EVIDENCE = (
    "boundaries",
    "anytime",
    "deterioration",
    "trust",
    "novelty",
    "segments",
    "segment_tests",
    "sensitivity",
)
ESTIMATORS = {
    "cuped": "CUPED",
    "pooled_theta": "pooled CUPED",
    "post_stratified": "strata",
}
COLOURS = {"SHIP": "green", "DO_NOT_SHIP": "red", "INVALID": "red", "INCOMPLETE": "red"}


def status_document(
    project: Project, manifest: Manifest, slugs: list[str] | None = None
) -> dict[str, Any]:
    """slug, state, verdict, reason, looks, information_fraction and the last look's effects."""
    rows = []
    wanted = slugs or [*project.experiments, *project.interventions]
    for slug in (slug for slug in project.experiments if slug in wanted):
        experiment = project.experiments[slug]
        looks = recorded_looks(open_ledger(manifest, experiment))
        look = looks[-1] if looks else last_peek(manifest.layout, experiment)
        rows.append(_experiment_row(experiment, looks, look))
    interventions = [
        _intervention_row(project, manifest, intervention)
        for slug, intervention in project.interventions.items()
        if slug in wanted
    ]
    return {"experiments": rows, "interventions": interventions}


def _intervention_row(
    project: Project, manifest: Manifest, intervention: Intervention
) -> dict[str, Any]:
    """What is known of an intervention: a study in its claim and first estimate.

    `is_current` is false where data, table or configuration have changed since.
    """
    slug, is_series = intervention.slug, isinstance(intervention.spec, TimeSeriesSpec)
    found = (read_summary if is_series else read_study)(manifest.layout, slug)
    if found is None:
        waits = None if is_series else not_ready(project, manifest, intervention)
        return {
            "intervention": slug,
            "design": intervention.spec.design.kind,
            "status": "waiting",
            "claim": None,
            "is_current": False,
            "reason": waits or "it was not estimated yet",
        }
    is_current = not has_changed(intervention, manifest.head, found)
    if is_series:
        return {"design": "time_series", **found, "is_current": is_current}
    names = ("intervention", "design", "method", "estimand", "is_randomised")
    kept = (*names, "status", "reason", "reason_detail")
    row = {name: found[name] for name in (*kept, "claim", "cutoff", "version", "warnings")}
    first = found["estimates"][0] if found["estimates"] else None
    return row | {"estimate": first, "is_current": is_current}


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
        **{name: [] if look.is_blocked else dumped[name] for name in EVIDENCE},
        "checks": dumped["checks"],
    }


def verdict_table(project: Project, manifest: Manifest, slugs: list[str] | None = None) -> Table:
    """Two lines per experiment and arm: what decides, and the naive numbers beside it.

    Where an experiment has several success metrics, each has its two lines and its name.
    """
    experiments = [project.experiments[slug] for slug in slugs or project.experiments]
    names_metric = any(experiment.success for experiment in experiments)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("experiment / arm", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("looks", justify="right")
    if names_metric:
        table.add_column("metric", no_wrap=True)
    table.add_column("estimate", no_wrap=True)
    table.add_column("lift", justify="right", no_wrap=True)
    table.add_column("std. error", justify="right", no_wrap=True)
    table.add_column("interval", justify="right", no_wrap=True)
    table.add_column("truth", justify="right", no_wrap=True)
    table.add_column("variance removed", justify="right")
    for experiment in experiments:
        looks = recorded_looks(open_ledger(manifest, experiment))
        rows = [[escape(experiment.slug), "-", "0", "", "no look yet"]]
        if looks:
            rows = [
                row for arm in experiment.treatments for row in _arm_rows(experiment, looks, arm)
            ]
        for row in rows:
            table.add_row(*(row if names_metric else [*row[:3], *row[4:]]))
    return table


def _arm_rows(experiment: Experiment, looks: list[Look], arm: str) -> list[list[str]]:
    """The deciding numbers of an arm, and below them the naive ones, by success metric."""
    decision = next(item for item in looks[-1].decisions if item.arm == arm)
    colour = COLOURS.get(decision.verdict, "yellow")
    start = [escape(experiment.slug), f"[bold {colour}]{decision.verdict}[/]", str(len(looks))]
    below = [f"  {escape(arm)}", "", ""]
    if decision.verdict == "INVALID":
        return [[*start, "", "effects are hidden: the comparison is not fair"], below]
    look = deciding_look(experiment, arm, looks)
    rows = []
    for metric in experiment.success_metrics:
        deciding, naive = _metric_rows(experiment, look, arm, metric.name)
        rows += [[*start, escape(metric.name), *deciding], [*below, "", *naive]]
        start = below = ["", "", ""]
    truth = (experiment.spec.truth or {}).get(arm)
    # The truth is that of the primary metric, which comes first.
    rows[0][-2] = percent(truth, 0) if truth is not None else "-"
    return rows


def _metric_rows(
    experiment: Experiment, look: Look, arm: str, metric: str
) -> tuple[list[str], list[str]]:
    """Estimate, lift, standard error, interval, truth and variance removed; then the naive ones."""
    deciding = look.effect(metric, arm, "relative_difference", adjusted=experiment.adjusts)
    naive = look.effect(metric, arm, "relative_difference", adjusted=False)
    boundary, sequence = look.boundary(metric, arm), look.anytime_of(arm, metric)
    saved = next((row for row in look.adjustments if (row.metric, row.arm) == (metric, arm)), None)
    limits, kind = "-", "sequential"
    if boundary is not None and boundary.is_relative:
        limits = interval(boundary.limit_low, boundary.limit_high)
    if sequence is not None and not experiment.is_group_sequential:
        limits, kind = interval(sequence.relative_low, sequence.relative_high), "anytime"
    estimator = ESTIMATORS.get(experiment.plan.estimator.kind)
    return (
        [
            f"{estimator}, {kind}" if estimator else kind,
            *_lift_cells(deciding),
            limits,
            "-",
            percent(saved.variance_reduction, 0, signed=False) if saved else "-",
        ],
        [
            "[dim]naive[/]",
            *_lift_cells(naive),
            interval(naive.ci_low, naive.ci_high) if naive else "-",
        ],
    )


def _lift_cells(effect: Effect | None) -> list[str]:
    if effect is None or effect.estimate is None or effect.std_error is None:
        return [effect.reason or "-" if effect else "-", "-"]
    return [percent(effect.estimate), percent(effect.std_error, signed=False)]


def reason_lines(document: dict[str, Any]) -> list[str]:
    """One sentence per experiment and arm: why its verdict is what it is."""
    lines = []
    for row in document["experiments"]:
        lines += [
            f"{row['slug']} / {arm['arm']}: {arm['verdict']}: {arm['reason']}"
            for arm in row["arms"]
        ]
    lines += [_intervention_line(summary) for summary in document["interventions"]]
    return lines


def _intervention_line(summary: dict[str, Any]) -> str:
    """What an intervention shows, and whether it may be called an effect."""
    is_randomised = summary.get("is_randomised", False)
    head = f"{summary['intervention']} ({'' if is_randomised else 'not '}randomised)"
    if summary["claim"] is None:
        return f"{head}: waiting: {summary['reason']}"
    claim = Claim(status=summary["claim"]["status"], clauses=(), is_randomised=is_randomised)
    older = "" if summary["is_current"] else "; older than its data or configuration"
    if "total" in summary:
        return f"{head}: {_series_words(summary, claim)}{older}"
    found = summary["estimate"]
    if found is None:
        return f"{head}: not estimable: {summary['reason_detail']}{older}"
    shown = _limits(found["ci_low"], found["ci_high"])
    name = called(found["name"], claim)
    said = f"{claim.status}: {name} {found['estimate']:+,.4g} {shown}; {summary['method']}"
    return f"{head}: {said}{older}"


def _limits(low: float | None, high: float | None) -> str:
    """An interval; an open side is infinite."""
    if low is None and high is None:
        return "(no interval)"
    shown_low = "-inf" if low is None else f"{low:+,.4g}"
    return f"[{shown_low}, {'inf' if high is None else f'{high:+,.4g}'}]"


def _series_words(summary: dict[str, Any], claim: Claim) -> str:
    total = summary["total"]
    if total is None:
        return f"not estimable yet ({summary['reason']})"
    return (
        f"{claim.status}: {total['estimate']:+,.0f} in total "
        f"[{total['ci_low']:+,.0f}, {total['ci_high']:+,.0f}] against the counterfactual, "
        f"placebo p {p_value(summary['placebo_p_value'])}"
    )

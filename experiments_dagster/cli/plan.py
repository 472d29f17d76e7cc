"""`experiments plan`: power, detectable effect, duration and calendar, from landed history."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from experiments_dagster.cli.numbers import percent
from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.history import read_history
from experiments_dagster.looks.planning import MetricHistory, PlanReport, plan_report
from experiments_dagster.stats.design.start_dates import YearlyPeriod
from experiments_dagster.storage.manifest import Manifest

MIN_UNITS = 1000  # past units below which the numbers are rough
UNDER = ("no effect", "half the MDE", "the MDE")


def make_plan(project: Project, manifest: Manifest, experiment: Experiment) -> PlanReport:
    """Plan one experiment from everything that has landed.

    Raises:
        ValueError: The experiment reads summaries, which have no history of units, or clusters
            were randomised.
        ContractError: The history is too short.
        EstimationError: The primary metric cannot be estimated from it.
    """
    if experiment.is_summary:
        msg = f"{experiment.slug}: summaries hold no units to plan from; use `experiments power`"
        raise ValueError(msg)
    if experiment.plan.cluster is not None:
        msg = (
            f"{experiment.slug}: the history of events does not know the clusters "
            f"({experiment.plan.cluster!r}); use `experiments power` with the design effect"
        )
        raise ValueError(msg)
    avoided = [
        YearlyPeriod(
            first=_month_day(period.first), last=_month_day(period.last), reason=period.reason
        )
        for period in project.platform.avoid
    ]
    return plan_report(experiment, read_history(project, manifest, experiment), avoided)


def _month_day(text: str) -> tuple[int, int]:
    month, _, day = text.partition("-")
    return int(month), int(day)


def plan_document(report: PlanReport) -> dict[str, Any]:
    """The report as plain data for JSON."""
    document = dataclasses.asdict(report)
    document["history_first_day"] = str(report.history_first_day)
    for look, row in zip(report.looks, document["looks"], strict=True):
        row["date"] = str(look.date)
    for proposal, row in zip(report.starts, document["starts"], strict=True):
        row |= {"start": str(proposal.start), "end": str(proposal.end)}
    return document


def plan_text(experiment: Experiment, report: PlanReport) -> Group:
    """The report for people: the answer first, then what it rests on."""
    parts: list[Any] = [f"[bold]{escape(line)}[/]" for line in _answer(experiment, report)]
    parts += ["", _history_table(report), "", _calendar_table(report), "", _law_table(report)]
    parts += ["", *(escape(line) for line in _notes(experiment, report))]
    return Group(*parts)


def _answer(experiment: Experiment, report: PlanReport) -> list[str]:
    days = experiment.enrolment_days
    needs = f"{report.n_needed:,.0f} units detect {report.mde:.1%} with power {report.power:.0%}"
    reach = f"{report.n_expected:,.0f} are expected in {days} days, which detect"
    lines = [f"{experiment.slug}: {needs}; {reach} {report.reachable:.1%}."]
    needed = report.duration
    if needed.days is None:
        reach = "nothing" if needed.mde_at_ceiling is None else f"{needed.mde_at_ceiling:.1%}"
        lines.append(f"Not feasible within {needed.ceiling_days} days, which detect {reach}.")
    else:
        lines.append(f"Runtime for {report.mde:.1%}: {needed.days} days, the window included.")
    return lines


def _history_table(report: PlanReport) -> Table:
    table = Table(
        title=f"history: {report.history_days} days of entry from {report.history_first_day}",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    table.add_column("metric")
    for name in ("units", "baseline", "sd per unit", "sd, adjusted", "variance removed"):
        table.add_column(name, justify="right")
    for row in (report.primary, *report.others):
        table.add_row(*_history_cells(row))
    for metric, reason in report.not_estimable.items():
        table.add_row(escape(metric), reason)
    return table


def _history_cells(row: MetricHistory) -> list[str]:
    return [
        escape(row.metric),
        f"{row.n_units:,}",
        f"{row.baseline:.4g}",
        f"{row.sd_unadjusted:.4g}",
        f"{row.sd:.4g}",
        f"{row.variance_reduction:.0%}",
    ]


def _calendar_table(report: PlanReport) -> Table:
    table = Table(
        title="calendar", title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False
    )
    table.add_column("look")
    for name in ("units", "information", "boundary z", "detects", "ends, no effect", "ends, MDE"):
        table.add_column(name, justify="right")
    for look in report.looks:
        table.add_row(
            str(look.date),
            f"{look.units:,.0f}",
            f"{look.information_fraction:.0%}",
            "-" if look.critical_value is None else f"{look.critical_value:.3f}",
            percent(look.detectable),
            f"{look.stop_under_null:.1%}",
            f"{look.stop_under_effect:.1%}",
        )
    return table


def _law_table(report: PlanReport) -> Table:
    table = Table(
        title="if the truth is",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    table.add_column("")
    for name in ("success metric wins", "expected days", "expected information"):
        table.add_column(name, justify="right")
    for name, law, days in zip(UNDER, report.profile, report.expected_days, strict=True):
        table.add_row(name, f"{law.power:.1%}", f"{days:.1f}", f"{law.expected_fraction:.0%}")
    return table


def _notes(experiment: Experiment, report: PlanReport) -> list[str]:
    lines = []
    if report.rule is not None:
        ship = ", ".join(
            f"{arm} {power:.1%} (simulation error {error:.1%})"
            for arm, power, error in zip(
                experiment.treatments, report.rule.ship, report.rule.ship_errors, strict=True
            )
        )
        lines.append(
            f"Power to ship, guardrails included, with the units that the plan needs: {ship}. To "
            f"keep {report.power:.0%} in all, each test needs {report.power_per_test:.1%}."
        )
    if report.periods_met:
        lines.append(f"The run as configured meets {', '.join(report.periods_met)}.")
    if report.starts:
        starts = "; ".join(f"{found.start} ({found.reason})" for found in report.starts)
        lines.append(f"Mondays to start a run of {report.run_days} days: {starts}.")
    weeks = ", ".join(f"{week} weeks {effect:.1%}" for week, effect in report.detectable_by_week)
    lines.append(f"Detectable after enrolling for: {weeks}.")
    if report.truncated_days:
        lines.append(
            f"The covariate window reaches {report.truncated_days} days back beyond the history: "
            "the gain of adjustment is understated."
        )
    if experiment.exposure_properties and experiment.adjusts:
        names = ", ".join(experiment.exposure_properties)
        lines.append(f"The history does not know {names}: what they explain is not counted here.")
    if report.primary.n_units < MIN_UNITS:
        lines.append(f"Only {report.primary.n_units} past units: take these numbers as rough.")
    return lines

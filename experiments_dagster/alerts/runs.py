"""What a finished run says: failed checks and failed runs become alerts, once per episode.

An *episode* of a check (asset, check name, partition) begins with the first failed evaluation and
ends with the next passed one; only its beginning is an alert. A failed run is an alert unless each
of its failed steps is a blocking check whose failed evaluation the same run holds: the check's
alert (or the one that opened its episode) says it already.

Exception messages never enter an alert, since they may hold raw rows (F-113); their class does. A
check's description does enter: whoever writes the check keeps ids out of it. Pure: no Dagster here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from experiments_dagster.alerts.alert import Alert, alert_id_for

RunStatus = Literal["SUCCESS", "FAILURE", "CANCELED"]

MAX_TEXT_CHARACTERS = 2000
# A refutation that weakens a claim is part of its result; only one that blocks it wakes somebody.
UNTOLD_WARNINGS = frozenset({"results/causal_impact", "results/causal_effect"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckKey:
    """Which check, on which asset, for which partition (None: not partitioned)."""

    asset: str
    check: str
    partition: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFact:
    """One check evaluation.

    Args:
        key: The check.
        passed: Its outcome.
        severity: Of a failure.
        blocking: Whether a failure stops what lies downstream.
        description: What the check says; without raw ids.
        at: When, aware.
        step: Step that evaluated it.
    """

    key: CheckKey
    passed: bool
    severity: Literal["WARN", "ERROR"]
    at: datetime
    blocking: bool = False
    description: str | None = None
    step: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailure:
    """A failed step: its name, the class of its error, whether a blocking check made it fail."""

    step: str
    error_class: str
    by_blocking_check: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One finished run.

    Args:
        run_id: Dagster run id.
        job: Job name.
        status: How it ended.
        ended_at: When, aware.
        experiment: Experiment of the run, if it has one.
        checks: Its evaluations in the order they happened.
        failed_steps: Its failed steps.
        failure: Why it failed where no step says so (an error class, or the reaper's reason).
    """

    run_id: str
    job: str
    status: RunStatus
    ended_at: datetime
    experiment: str | None = None
    checks: tuple[CheckFact, ...] = ()
    failed_steps: tuple[StepFailure, ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckState:
    """The latest known evaluation of a check: its outcome, its run and when."""

    failing: bool
    run_id: str
    at: datetime


def alerts_for_run(
    run: RunFacts, previous: Mapping[CheckKey, CheckState]
) -> tuple[tuple[Alert, ...], dict[CheckKey, CheckState]]:
    """Return the alerts of `run` and the states after it.

    Evaluations of this run that `previous` already covers are left out (the run is processed again
    after a crash). One older than the known state opens no episode; it is told only if the known
    state passes.

    Args:
        run: The run.
        previous: States before it; a check never seen has none.

    Returns:
        Alerts with distinct ids, and only the states that changed.
    """
    alerts: dict[str, Alert] = {}
    states = dict(previous)
    for fact in run.checks:
        known = states.get(fact.key)
        if _is_covered(run, fact, previous.get(fact.key)):
            continue
        is_failing = not fact.passed and (
            fact.severity == "ERROR" or fact.key.asset not in UNTOLD_WARNINGS
        )
        if is_failing and not (known is not None and known.failing):
            alert = check_alert(run, fact)
            alerts.setdefault(alert.alert_id, alert)
        if known is None or fact.at >= known.at:
            states[fact.key] = CheckState(failing=is_failing, run_id=run.run_id, at=fact.at)
    if run.status == "FAILURE" and not is_explained_by_checks(run):
        alert = run_alert(run)
        alerts[alert.alert_id] = alert
    changed = {key: state for key, state in states.items() if previous.get(key) != state}
    return tuple(alerts.values()), changed


def is_explained_by_checks(run: RunFacts) -> bool:
    """Tell whether each failed step of `run` failed by a blocking check evaluated in it."""
    blocked = {fact.step for fact in run.checks if _is_blocking_failure(fact)}
    return bool(run.failed_steps) and all(
        failure.by_blocking_check and failure.step in blocked for failure in run.failed_steps
    )


def check_alert(run: RunFacts, fact: CheckFact) -> Alert:
    """Return the alert for a failed evaluation: a warning for WARN, an error for ERROR."""
    key = fact.key
    where = f"{key.asset} [{key.partition}]" if key.partition is not None else key.asset
    effect = "blocking" if _is_blocking_failure(fact) else "not blocking"
    said = (fact.description or "The check gave no description.")[:MAX_TEXT_CHARACTERS]
    return Alert(
        alert_id=alert_id_for("check", run.run_id, key.asset, key.check, key.partition),
        level="error" if fact.severity == "ERROR" else "warning",
        title=f"Check {key.check} failed on {where}",
        text=f"{said}\nSeverity {fact.severity}, {effect}. Job {run.job}.",
        experiment=_experiment_of(run, key.partition),
        check=f"{key.asset}:{key.check}",
        run_id=run.run_id,
        created_at=fact.at,
    )


def run_alert(run: RunFacts) -> Alert:
    """Return the alert for a failed run."""
    steps = "; ".join(f"{failure.step} ({failure.error_class})" for failure in run.failed_steps)
    said = f"Failed steps: {steps}." if steps else f"Reason: {run.failure or 'not recorded'}."
    return Alert(
        alert_id=alert_id_for("run", run.run_id),
        level="error",
        title=f"Run of {run.job} failed",
        text=f"{said[:MAX_TEXT_CHARACTERS]}\nThe run's page in Dagster has the details.",
        experiment=run.experiment,
        run_id=run.run_id,
        created_at=run.ended_at,
    )


def _is_covered(run: RunFacts, fact: CheckFact, before: CheckState | None) -> bool:
    return before is not None and before.run_id == run.run_id and fact.at <= before.at


def _is_blocking_failure(fact: CheckFact) -> bool:
    return fact.blocking and fact.severity == "ERROR" and not fact.passed


def _experiment_of(run: RunFacts, partition: str | None) -> str | None:
    # A partition is an experiment (or intervention), or an arrival day such as 2026-01-05.
    if partition is None or (partition[:4].isdigit() and partition[4:5] == "-"):
        return run.experiment
    return partition

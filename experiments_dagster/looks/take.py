"""Take a look: the one path from landed batches to a recorded verdict.

    freeze or check the plan -> frames as of the cut-off -> estimates -> health checks
    -> reserve -> boundaries, spending, confidence sequence -> decisions -> record

An unplanned look at the same data is a peek: it is served from the confidence sequence, spends
nothing and is not recorded.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments_dagster import __version__
from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.decisions.verdict import (
    Decision,
    Evidence,
    GuardrailEvidence,
    Success,
    decide,
    overall,
)
from experiments_dagster.frames.summaries import build_summaries, read_current_summaries
from experiments_dagster.frames.unit_frames import (
    Frames,
    build_unit_frames,
    read_current_frames,
)
from experiments_dagster.frames.unit_rows import Shard
from experiments_dagster.looks.calendar import DueLook, due_look, is_complete, local_day, next_look
from experiments_dagster.looks.context import (
    novelty_rows,
    segment_rows,
    sensitivity_rows,
    trust_rows,
)
from experiments_dagster.looks.contrasts import Inputs
from experiments_dagster.looks.estimates import (
    Estimates,
    cap_of,
    estimate_metrics,
    pooled_baseline,
)
from experiments_dagster.looks.health import health_checks
from experiments_dagster.looks.monitors import anytime_intervals, deterioration
from experiments_dagster.looks.plan import check_plan
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.records import ArmDecision, Frozen, Look, is_finished
from experiments_dagster.looks.remote import (
    caps_of,
    forget_answers,
    frames_of_sums,
    has_answers,
    read_answers,
    spark_sums,
    write_answers,
)
from experiments_dagster.looks.scores import ScoreBook, write_scores
from experiments_dagster.looks.sequential import boundaries, freeze, information_fraction
from experiments_dagster.looks.unit_sums import sums_of
from experiments_dagster.stats.errors import REASONS, EstimationError
from experiments_dagster.storage.errors import BusyError, DataDamagedError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.ledger import Ledger
from experiments_dagster.storage.manifest import RESTORE_HINT, Manifest

logger = logging.getLogger(__name__)

# Reasons that more units cure, and those that may come of the first few units alone.
NOT_YET = ("IMMATURE", "EMPTY_ARM", "N_TOO_SMALL", "ZERO_VARIANCE")
EARLY = ("ZERO_DENOMINATOR", "NOT_IDENTIFIED")
# Planned information goes with the square of the baseline: too few units would misplan it.
MIN_UNITS_TO_FREEZE = 100
DATA_GRACE = dt.timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAttempt:
    """What came of asking for a look.

    `is_new` tells a look that was just recorded from one that stood already; a peek is neither
    recorded nor spends anything.
    """

    look: Look
    is_new: bool
    ledger: Ledger

    @property
    def is_peek(self) -> bool:
        """Whether no planned look was due."""
        return self.look.look is None


def open_ledger(manifest: Manifest, experiment: Experiment, ledger: Ledger | None = None) -> Ledger:
    """The verified ledger of an experiment's present phase; one that is open already is refreshed.

    Raises:
        DataDamagedError: The ledger is damaged, or batches that a look has read are gone.
    """
    ledger = ledger or Ledger(manifest.layout, experiment.slug, experiment.phase)
    ledger.refresh()
    cutoff = ledger.looks[-1]["cutoff"] if ledger.looks else 0
    if cutoff > manifest.head:
        manifest.refresh()  # another run may have landed and looked in the meantime
    if cutoff > manifest.head:
        rule = f"ends at batch {manifest.head}, but a look of {experiment.slug} read {cutoff}"
        raise DataDamagedError(manifest.layout.manifest, rule, RESTORE_HINT)
    return ledger


def build_frames(
    project: Project,
    manifest: Manifest,
    experiment: Experiment,
    *,
    as_of: dt.datetime,
    ledger: Ledger | None = None,
    shard: Shard | None = None,
) -> Inputs:
    """Check the plan and publish the frames that the next look reads.

    A reservation left by a dead run is resumed with its own cut-off and time.

    Raises:
        PlanChangedError: The configuration differs from the frozen plan.
    """
    ledger = open_ledger(manifest, experiment, ledger)
    check_plan(ledger, experiment)
    cutoff = manifest.head
    if ledger.reserved is not None:
        cutoff = ledger.reserved["cutoff"]
        as_of = dt.datetime.fromisoformat(ledger.reserved["as_of"])
    return build_inputs(project, manifest, experiment, cutoff=cutoff, as_of=as_of, shard=shard)


def build_inputs(
    project: Project,
    manifest: Manifest,
    experiment: Experiment,
    *,
    cutoff: int,
    as_of: dt.datetime,
    publish: bool = True,
    shard: Shard | None = None,
) -> Inputs:
    """The unit frames of an experiment, or its summaries, from batches 1..cutoff.

    Args:
        project: Configuration.
        manifest: The landed batches.
        experiment: Which units, windows and metrics.
        cutoff: The last batch that counts.
        as_of: Aware instant of the look.
        publish: Whether the result becomes the published one; a reproduction does not.
        shard: Unit rows that are at the cut-off already.
    """
    if experiment.is_summary:
        return build_summaries(
            project, manifest, experiment, cutoff=cutoff, as_of=as_of, publish=publish
        )
    if project.platform.engine == "spark":
        answers = {
            cap: spark_sums(project, manifest, experiment, cutoff=cutoff, as_of=as_of, cap=cap)
            for cap in caps_of(experiment)
        }
        if publish:
            write_answers(manifest.layout, experiment, answers, cutoff=cutoff, as_of=as_of)
        return frames_of_sums(manifest, experiment, answers, cutoff=cutoff, as_of=as_of)
    if publish:
        forget_answers(manifest.layout, experiment)
    return build_unit_frames(
        project, manifest, experiment, cutoff=cutoff, as_of=as_of, publish=publish, shard=shard
    )


def read_current_inputs(layout: Layout, experiment: Experiment) -> Inputs:
    """The published unit frames or summaries of an experiment.

    Raises:
        FileNotFoundError: None have been published yet.
    """
    if experiment.is_summary:
        return read_current_summaries(layout, experiment)
    if has_answers(layout, experiment):
        return read_answers(Manifest(layout).refresh(), experiment)
    return read_current_frames(layout, experiment)


def take_look(
    project: Project,
    manifest: Manifest,
    experiment: Experiment,
    *,
    as_of: dt.datetime,
    shard: Shard | None = None,
) -> LookAttempt:
    """Build the frames and take the planned look that is due, or peek.

    Args:
        project: Configuration.
        manifest: Landed batches; all of them count.
        experiment: Which experiment.
        as_of: Aware instant; data after it do not count.
        shard: Unit rows that are at the head of the manifest, where looks at many experiments
            share them.

    Raises:
        PlanChangedError: The configuration differs from the frozen plan.
        BusyError: Another run is taking a look at this experiment.
        ContractError: A frame breaks its contract.
        DataDamagedError: A landed file, the manifest or the ledger is damaged.
    """
    ledger = Ledger(manifest.layout, experiment.slug, experiment.phase)
    frames = build_frames(project, manifest, experiment, as_of=as_of, ledger=ledger, shard=shard)
    return look_at(manifest, experiment, frames, ledger)


def look_at(
    manifest: Manifest, experiment: Experiment, frames: Inputs, ledger: Ledger | None = None
) -> LookAttempt:
    """Take the planned look that is due on published frames, or peek."""
    ledger = open_ledger(manifest, experiment, ledger)
    with ledger.hold():
        check_plan(ledger, experiment)
        earlier = recorded_looks(ledger)
        frozen = _frozen(experiment, frames, earlier)
        cap = frozen.cap if frozen else None
        estimates = estimate_metrics(experiment, frames, cap=cap)
        as_of = dt.datetime.fromisoformat(frames.info.as_of)
        day = local_day(experiment, as_of)
        due: DueLook | None
        if ledger.reserved is not None:
            if ledger.reserved["cutoff"] != frames.info.cutoff:
                # Another run reserved and died after these frames were built.
                number = ledger.reserved["look"]
                raise BusyError(
                    f"{experiment.slug}: look {number} is reserved at another cut-off; try again"
                )
            due = DueLook(**ledger.reserved["due"])
        else:
            fraction = _smallest_fraction(experiment, estimates, frozen)
            due = due_look(experiment, earlier, day, information_fraction=fraction)
            if due is not None and due.is_planned_end and waits_for_data(experiment, frames):
                due = None
        if ledger.plan is None and (due is not None or any(frames.info.n_exposed.values())):
            ledger.freeze_plan(
                {
                    "plan_hash": experiment.plan_hash,
                    "document": experiment.plan_document,
                    "code_version": __version__,
                }
            )
        if due is None:
            if is_complete(experiment, earlier) or (
                earlier and earlier[-1].as_of == frames.info.as_of
            ):
                return LookAttempt(look=earlier[-1], is_new=False, ledger=ledger)
            return LookAttempt(
                look=_assemble(experiment, frames, estimates, frozen, earlier, None, None),
                is_new=False,
                ledger=ledger,
            )
        reservation = ledger.reserve(
            {
                "cutoff": frames.info.cutoff,
                "as_of": frames.info.as_of,
                "plan_hash": experiment.plan_hash,
                "due": {
                    "planned_index": due.planned_index,
                    "is_planned_end": due.is_planned_end,
                },
            }
        )
        book = ScoreBook(manifest.layout)
        number = reservation["look"]
        look = _assemble(experiment, frames, estimates, frozen, earlier, number, due, book)
        kept = write_scores(manifest.layout, look, estimates.results.values())
        look = look.model_copy(update={"scores": kept})
        ledger.record(look.model_dump(mode="json"))
    logger.info("look=%s verdict=%s", look.look_id, look.verdict)
    return LookAttempt(look=look, is_new=True, ledger=ledger)


def waits_for_data(experiment: Experiment, frames: Inputs) -> bool:
    """Whether the last look, which cannot be taken again, should wait for data that lag behind.

    It waits until the slowest source reaches the look's time or the end of all windows, but no
    longer than `DATA_GRACE` past that.
    """
    as_of = dt.datetime.fromisoformat(frames.info.as_of)
    windows_end = experiment.ends_at + dt.timedelta(days=experiment.primary.maturity_days)
    needed = min(as_of, windows_end)
    is_behind = dt.datetime.fromisoformat(frames.info.horizon) < needed
    return is_behind and as_of < windows_end + DATA_GRACE


def preview_look(manifest: Manifest, experiment: Experiment, frames: Inputs) -> Look:
    """Effects and checks on published frames, without spending, boundaries or a record."""
    earlier = recorded_looks(open_ledger(manifest, experiment))
    frozen = _frozen(experiment, frames, earlier)
    estimates = estimate_metrics(experiment, frames, cap=frozen.cap if frozen else None)
    return _assemble(experiment, frames, estimates, frozen, earlier, None, None)


def recompute(
    layout: Layout,
    experiment: Experiment,
    frames: Inputs,
    earlier: Sequence[Look],
    seen: Look,
) -> Look:
    """The look that the same rules give on rebuilt frames: for reproduction and restatement."""
    frozen = _frozen(experiment, frames, earlier)
    estimates = estimate_metrics(experiment, frames, cap=frozen.cap if frozen else None)
    due = DueLook(planned_index=seen.planned_index, is_planned_end=seen.is_planned_end)
    book = ScoreBook(layout)
    return _assemble(experiment, frames, estimates, frozen, earlier, seen.look, due, book)


def present_fraction(experiment: Experiment, frames: Inputs, earlier: Sequence[Look]) -> float:
    """Smallest information fraction over the arms on given frames; 0 before anything matures."""
    frozen = _frozen(experiment, frames, earlier)
    cap = frozen.cap if frozen else None
    estimates = estimate_metrics(experiment, frames, cap=cap)
    return _smallest_fraction(experiment, estimates, frozen) or 0.0


def _frozen(experiment: Experiment, frames: Inputs, earlier: Sequence[Look]) -> Frozen | None:
    """What the first estimable look fixed, or what this one would fix; None while immature."""
    for look in earlier:
        if look.frozen is not None:
            return look.frozen
    try:
        cap = cap_of(experiment, frames)
        baseline = pooled_baseline(experiment, frames, cap=cap, min_units=MIN_UNITS_TO_FREEZE)
    except EstimationError:
        return None
    return freeze(experiment, baseline=baseline, cap=cap)


def _smallest_fraction(
    experiment: Experiment, estimates: Estimates, frozen: Frozen | None
) -> float | None:
    fractions = _fractions(experiment, estimates, frozen)
    if len(fractions) < len(experiment.treatments):
        return None
    return min(fractions.values())


def _fractions(
    experiment: Experiment, estimates: Estimates, frozen: Frozen | None
) -> dict[str, float]:
    """Information fraction of every arm whose primary effect can be estimated."""
    found = {}
    for arm in experiment.treatments:
        result = estimates.results.get((experiment.primary.name, arm))
        if result is not None and frozen is not None:
            found[arm] = information_fraction(result, frozen)
    return found


def _assemble(
    experiment: Experiment,
    frames: Inputs,
    estimates: Estimates,
    frozen: Frozen | None,
    earlier: Sequence[Look],
    number: int | None,
    due: DueLook | None,
    scores: ScoreBook | None = None,
) -> Look:
    is_end = due is not None and due.is_planned_end
    cap = frozen.cap if frozen is not None else None
    counts = None
    if experiment.is_additive and isinstance(frames, Frames):
        counts = sums_of(experiment, frames, cap=cap).counts
    health = health_checks(experiment, frames, earlier, is_planned_end=is_end, counts=counts)
    rows: list[Any] = []
    anytime: list[Any] = []
    if frozen is not None:
        if due is not None:
            rows = boundaries(
                experiment,
                estimates,
                frozen,
                earlier,
                is_planned_end=is_end,
                planned_index=due.planned_index,
                scores=scores,
            )
        anytime = anytime_intervals(experiment, estimates, frozen, earlier)
    harm = deterioration(experiment, estimates, frozen, earlier)
    segments, segment_tests = segment_rows(experiment, frames, cap=cap)
    info = frames.info
    draft = Look(
        experiment=experiment.slug,
        phase=experiment.phase,
        look=number,
        planned_index=due.planned_index if due else (earlier[-1].planned_index if earlier else 0),
        is_planned_end=is_end,
        as_of=info.as_of,
        horizon=info.horizon,
        cutoff=info.cutoff,
        plan_hash=experiment.plan_hash,
        code_version=__version__,
        inputs=info.inputs,
        frames=info.sha256,
        n_exposed=info.n_exposed,
        n_multi_arm=info.n_multi_arm,
        n_mature=estimates.n_mature,
        frozen=frozen,
        effects=estimates.effects,
        adjustments=estimates.adjustments,
        boundaries=tuple(rows),
        anytime=tuple(anytime),
        checks=tuple(health.checks),
        log_e_sample_ratio=health.log_e,
        log_e_by_level=health.log_e_by_level,
        information_fractions=_fractions(experiment, estimates, frozen),
        segments=tuple(segments),
        segment_tests=tuple(segment_tests),
        sensitivity=tuple(sensitivity_rows(experiment, frames, cap=cap)),
        deterioration=tuple(harm),
        trust=tuple(trust_rows(experiment, estimates, rows)),
        novelty=tuple(novelty_rows(experiment, frames)),
        decisions=(),
        arm="",
        verdict="",
        reason="",
    )
    return _decided(experiment, draft, [*earlier, draft])


def _decided(experiment: Experiment, look: Look, looks: Sequence[Look]) -> Look:
    decisions: list[tuple[str, Decision, float | None]] = []
    for arm in experiment.treatments:
        evidence = arm_evidence(experiment, arm, looks)
        decisions.append((arm, decide(evidence), evidence.low))
    arm, decision = overall(decisions)
    return look.model_copy(
        update={
            "decisions": tuple(
                ArmDecision(
                    arm=name,
                    verdict=found.verdict,
                    clause=found.clause,
                    reason=found.reason,
                    missing=found.missing,
                    is_harmful=found.is_harmful,
                )
                for name, found, _ in decisions
            ),
            "arm": arm,
            "verdict": decision.verdict,
            "reason": decision.reason,
        }
    )


def arm_evidence(experiment: Experiment, arm: str, looks: Sequence[Look]) -> Evidence:
    """What all looks so far, the last one included, say about one arm."""
    now = looks[-1]
    success = _first_crossing(experiment, arm, looks)
    low, high = _desired_limits(experiment, arm, looks)
    estimable_reasons = {
        f"{effect.metric} ({effect.reason})"
        for effect in now.effects
        if effect.arm == arm
        and effect.estimand == "difference"
        and effect.role != "secondary"
        and effect.status == "not_estimable"
        and effect.reason not in NOT_YET
        and (now.is_planned_end or effect.reason not in EARLY)
    }
    day = local_day(experiment, dt.datetime.fromisoformat(now.as_of))
    return Evidence(
        missing=tuple(sorted(estimable_reasons)),
        failed_checks=tuple(
            f"{check.name}: {check.message}" for check in now.checks if check.blocks
        ),
        success=success.side,
        success_look=success.look,
        success_metric=None if success.metric == experiment.primary.name else success.metric,
        deteriorated=_deteriorated(arm, looks),
        is_futile=_is_futile(experiment, arm, looks),
        guardrails=tuple(
            GuardrailEvidence(metric=metric.name, state=_guardrail_state(metric.name, arm, looks))  # type: ignore[arg-type]
            for _, metric in experiment.guardrails
        ),
        is_planned_end=now.is_planned_end or is_finished(looks, arm),
        information_fraction=now.information_fractions.get(arm),
        low=low,
        high=high,
        minimum_effect=experiment.minimum_effect,
        not_estimable=_primary_reason(experiment, arm, now),
        next_look=next_look(experiment, [look for look in looks if look.look is not None], day),
    )


def _primary_reason(experiment: Experiment, arm: str, look: Look) -> str | None:
    """Why the primary effect of an arm is not estimable, in words."""
    effect = look.effect(experiment.primary.name, arm, "difference", adjusted=False)
    if effect is None or effect.reason is None:
        return None
    return f"{effect.metric}: {REASONS[effect.reason]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crossing:
    """The first rejection of a success metric: which way, which metric, at which look."""

    side: Success = "none"
    metric: str | None = None
    look: int | None = None


def _first_crossing(experiment: Experiment, arm: str, looks: Sequence[Look]) -> _Crossing:
    """The first crossing of any success metric; harm anywhere goes before success."""
    found = [
        crossing
        for metric in experiment.success_metrics
        if (crossing := _crossing_of(experiment, metric, arm, looks)) is not None
    ]
    harmful = [crossing for crossing in found if crossing.side == "undesired"]
    return next(iter(harmful or found), _Crossing())


def _crossing_of(
    experiment: Experiment, metric: Metric, arm: str, looks: Sequence[Look]
) -> _Crossing | None:
    for look in looks:
        row = look.boundary(metric.name, arm)
        if row is not None and row.crossed != "none":
            return _Crossing(side=row.crossed, metric=metric.name, look=look.look)
        interval = look.anytime_of(arm, metric.name)
        if experiment.is_group_sequential or interval is None:
            continue
        if interval.low > 0 or interval.high < 0:
            upwards = interval.low > 0
            is_desired = upwards == (metric.direction == "increase")
            side: Success = "desired" if is_desired else "undesired"
            return _Crossing(side=side, metric=metric.name, look=look.look)
    return None


def _deteriorated(arm: str, looks: Sequence[Look]) -> tuple[str, ...]:
    """Metrics whose harm a safety monitor has shown at any look."""
    rows = (row for look in looks for row in look.deterioration)
    names = [row.metric for row in rows if row.arm == arm and row.crossed == "undesired"]
    return tuple(dict.fromkeys(names))


def _is_futile(experiment: Experiment, arm: str, looks: Sequence[Look]) -> bool:
    rows = [row for look in looks if (row := look.boundary(experiment.primary.name, arm))]
    return any(row.is_futile for row in rows)


def _guardrail_state(metric: str, arm: str, looks: Sequence[Look]) -> str:
    rows = [row for look in looks if (row := look.boundary(metric, arm)) is not None]
    if any(row.crossed == "desired" for row in rows):
        return "non_inferior"
    if any(row.crossed == "undesired" for row in rows):
        return "worse"
    return "open" if rows else "not_estimable"


def deciding_look(experiment: Experiment, arm: str, looks: Sequence[Look]) -> Look:
    """The last look that tested an arm: the newest, unless the arm's plan ended before it."""
    for look in reversed(looks):
        if look.boundary(experiment.primary.name, arm) is not None:
            return look
    return looks[-1]


def _desired_limits(
    experiment: Experiment, arm: str, looks: Sequence[Look]
) -> tuple[float | None, float | None]:
    """The deciding relative interval, mirrored so that positive is desired."""
    look = deciding_look(experiment, arm, looks)
    row = look.boundary(experiment.primary.name, arm)
    low, high = None, None
    if row is not None and row.is_relative:
        low, high = row.limit_low, row.limit_high
    elif row is None:
        interval = look.anytime_of(arm)
        if interval is not None:
            low, high = interval.relative_low, interval.relative_high
    if experiment.primary.direction == "decrease" and low is not None and high is not None:
        return -high, -low
    return low, high

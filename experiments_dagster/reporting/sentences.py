"""Sentences that follow from the records of a look: headline, reasons, next steps.

Nothing here is written by hand per report; the same look gives the same words.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments_dagster.config.experiment import Futility, GroupSequential
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import ArmDecision, Boundary, Look
from experiments_dagster.reporting.blocks import Cell, exact, exact_interval, phrase
from experiments_dagster.reporting.numbers import level, lift, local_date, missing
from experiments_dagster.reporting.tables import hides_effects
from experiments_dagster.reporting.trajectory import anytime_of, deciding_effect, desired_sign

HIDDEN = "a health check failed"


def headline(look: Look) -> str:
    """What to do, in one sentence."""
    arm = look.arm
    words = {
        "SHIP": f"Ship {arm}.",
        "DO_NOT_SHIP": f"Do not ship {arm}.",
        "PENDING": "Keep running: there is no decision yet.",
        "INVALID": "Do not read this comparison: a health check failed.",
        "INCOMPLETE": "No decision: something the plan needs could not be estimated.",
        "EXPLORATORY": "Exploratory only: the plan changed after results were seen.",
        "INCONCLUSIVE": "Inconclusive at the planned end.",
    }
    return words.get(look.verdict, look.verdict)


def deciding_clause(decision: ArmDecision) -> str:
    """The rule that decided, such as `clause 5 (success)`."""
    number, _, name = decision.clause.partition(" ")
    return f"clause {number} ({name})" if name else f"clause {decision.clause}"


def effect_sentence(
    look: Look, experiment: Experiment, arm: str, metric: str | None = None
) -> Cell:
    """The lift of an arm with the interval that decides; of the primary metric by default."""
    metric = metric or experiment.primary.name
    effect = deciding_effect(look, experiment, metric, arm, "relative_difference")
    if effect is None or effect.estimate is None:
        reason = effect.reason if effect else "IMMATURE"
        return phrase("{}, {}: lift not estimable {}.", arm, metric, missing(reason))
    name, limits = sequential_limits(look, experiment, arm, metric)
    return phrase(
        "Estimated lift of {}, {} against {}: {}; {} {}.",
        metric,
        arm,
        experiment.control,
        exact(effect.estimate, lift),
        name,
        limits,
    )


def sequential_limits(
    look: Look, experiment: Experiment, arm: str, metric: str | None = None
) -> tuple[str, Cell]:
    """The name and the limits of the interval that holds over all looks."""
    metric = metric or experiment.primary.name
    sequential = level(1 - experiment.alpha_per_hypothesis)
    row = look.boundary(metric, arm)
    if row is not None and row.is_relative and row.limit_low is not None:
        limits = exact_interval(row.limit_low, row.limit_high, lift)
        return f"repeated {sequential} interval", limits
    sequence = look.anytime_of(arm, metric)
    name = f"{sequential} confidence sequence"
    if sequence is None:
        return name, missing("too few units for it")
    return name, exact_interval(
        sequence.relative_low, sequence.relative_high, lift, "the lift is not identified"
    )


def boundary_note(row: Boundary) -> str | None:
    """Where the test and the shown interval part ways, say why."""
    if row.crossed == "none" or row.limit_low is None or row.limit_high is None:
        return None
    if not row.is_relative or not row.limit_low <= 0 <= row.limit_high:
        return None
    return (
        "The boundary is crossed by the absolute difference, which is what the plan tests; the "
        "interval of the lift has a standard error of its own (the control mean is uncertain "
        "too) and still includes 0."
    )


def truth_sentence(look: Look, experiment: Experiment, arm: str) -> Cell | None:
    """Where the known truth lies; None where nobody knows it."""
    truth = (experiment.spec.truth or {}).get(arm)
    if truth is None:
        return None
    shown = exact(truth, lift)
    row = look.boundary(experiment.primary.name, arm)
    if row is not None and row.is_relative and row.limit_low is not None:
        low: float | None = row.limit_low
        high, name = row.limit_high, "repeated interval"
    else:
        sequence, name = anytime_of(look, arm), "confidence sequence"
        low, high = (sequence.relative_low, sequence.relative_high) if sequence else (None, None)
    if low is None or high is None:
        return phrase("The true lift is known: {}.", shown)
    place = "inside" if low <= truth <= high else "outside"
    return phrase("The true lift is known: {}, {} the {}.", shown, place, name)


def next_steps(look: Look, experiment: Experiment, looks: Sequence[Look]) -> list[Cell]:
    """What to do now, in order, from the verdict."""
    steps = _verdict_steps(look, experiment, looks)
    if any(decision.is_harmful for decision in look.decisions) and look.verdict != "DO_NOT_SHIP":
        arms = ", ".join(d.arm for d in look.decisions if d.is_harmful)
        steps.append(phrase("Look at {} first: a metric moved the wrong way.", arms))
    warned = [check.name for check in look.checks if not check.passed and not check.blocks]
    if warned:
        names = ", ".join(dict.fromkeys(warned))
        steps.append(phrase("Find the cause of the warning of {}.", names))
    return steps


def _verdict_steps(look: Look, experiment: Experiment, looks: Sequence[Look]) -> list[Cell]:
    if hides_effects(look):
        failed = "; ".join(check.name for check in look.checks if check.blocks)
        return [
            phrase("Find the cause of {} before anything else.", failed or "the failed check"),
            "Do not use the effects of this look, not even their sign.",
            (
                "When the cause is fixed, start the next phase with a new salt: mixing the two "
                "populations keeps the bias."
            ),
        ]
    if look.verdict == "SHIP":
        return _ship_steps(look, experiment)
    if look.verdict == "DO_NOT_SHIP":
        return _stop_steps(look)
    if look.verdict == "PENDING":
        return _wait_steps(look, experiment, looks)
    if look.verdict == "INCOMPLETE":
        return _incomplete_steps(look)
    steps: list[Cell] = [
        "Leave the control in place: neither an effect nor its absence is shown.",
        (
            "Continuing past the planned end needs a plan reserved in advance, or a new phase with "
            "more units or a larger minimum effect."
        ),
    ]
    if look.verdict == "EXPLORATORY":
        steps = ["Treat the effects as ideas; test them in a new phase with a plan of its own."]
    return steps


def _incomplete_steps(look: Look) -> list[Cell]:
    lacking = sorted({part for decision in look.decisions for part in decision.missing})
    return [
        phrase("Make these estimable: {}.", "; ".join(lacking) or look.reason),
        "Then take the look again; nothing was decided.",
    ]


def _ship_steps(look: Look, experiment: Experiment) -> list[Cell]:
    steps: list[Cell] = [
        phrase("Roll out {} and end the assignment of new units.", look.arm),
        (
            "Expect the size of the effect to be somewhat smaller than estimated: an estimate at a "
            "crossed boundary is biased away from zero. Plan with the interval."
        ),
    ]
    others = [d.arm for d in look.decisions if d.arm != look.arm and d.verdict == "PENDING"]
    if others:
        steps.append(phrase("{} is still undecided on its own.", ", ".join(others)))
    if experiment.guardrails:
        names = ", ".join(metric.name for _, metric in experiment.guardrails)
        steps.append(phrase("Keep watching {} during the roll-out.", names))
    return steps


def _stop_steps(look: Look) -> list[Cell]:
    decision = next((d for d in look.decisions if d.arm == look.arm), None)
    if decision is not None and decision.is_harmful:
        return [
            phrase("Take {} out of exposure now.", look.arm),
            "Look for the cause before a changed version is tested in a new phase.",
        ]
    steps: list[Cell] = [
        "Leave the control in place and end the assignment of new units.",
        phrase("Write down why: {}.", look.reason),
    ]
    if decision is not None and decision.clause.endswith("futility"):
        steps.append(
            "Do not report that there is no effect: success has become unlikely, which is less."
        )
        if not look.is_planned_end:
            steps.append(
                "The futility bound is not binding: going on to the planned end costs no type I "
                "error, only time."
            )
    return steps


def _wait_steps(look: Look, experiment: Experiment, looks: Sequence[Look]) -> list[Cell]:
    # Here and not above: the calendar brings the whole estimation path with it.
    from experiments_dagster.looks.calendar import is_complete, next_look

    recorded = [found for found in looks if found.look is not None]
    due = next_look(experiment, recorded, local_date(look.as_of, experiment.timezone))
    steps: list[Cell] = []
    if due:
        steps.append(phrase("Wait for the next planned look: {}.", due))
    elif is_complete(experiment, recorded):
        steps.append("The plan has no further look.")
    steps.append(
        "Do not stop early on the naive numbers and do not edit the plan; looking in between is "
        "free on the confidence sequence."
    )
    waiting = [part for d in look.decisions for part in d.missing if part.startswith("guardrail")]
    if waiting:
        steps.append(phrase("What is waited for: {}.", ", ".join(dict.fromkeys(waiting))))
    row = look.boundary(experiment.primary.name, look.arm)
    if row is not None and row.no_stop_reason == "INFORMATION_DECREASED":
        steps.append("Check that new data arrive: this look had no more information than before.")
    return steps


def direction_words(experiment: Experiment) -> str:
    """Which way is better."""
    return "higher is better" if desired_sign(experiment) > 0 else "lower is better"


def design_words(experiment: Experiment) -> str:
    """How looks are planned."""
    looks = experiment.plan.looks
    rhythm = "when planned information is reached" if looks.schedule == "information" else (
        looks.schedule
    )  # fmt: skip
    if not isinstance(looks.design, GroupSequential):
        return f"any number of looks, {rhythm}, on a confidence sequence"
    design = looks.design
    words = f"{design.planned} looks, {rhythm}, group sequential with {_spending(design)} spending"
    if design.futility is None:
        return words
    return f"{words}; non-binding futility bound with {_spending(design.futility)} spending"


def _spending(spending: GroupSequential | Futility) -> str:
    names = {
        "obrien_fleming": "O'Brien-Fleming",
        "pocock": "Pocock",
        "kim_demets": "Kim-DeMets",
        "hwang_shih_decani": "Hwang-Shih-DeCani",
    }
    name = names[spending.spending]
    return name if spending.parameter is None else f"{name} ({spending.parameter:g})"

"""The frozen plan: hashed when the first unit is exposed; a later change is refused."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.storage.ledger import Ledger


class PlanChangedError(ValueError):
    """The configuration no longer says what was frozen. Lists each change, old and new."""

    def __init__(self, slug: str, changes: list[str]) -> None:
        self.slug = slug
        self.changes = changes
        listed = "; ".join(changes)
        super().__init__(
            f"{slug}: the plan changed after it was frozen: {listed}. Hint: take the change back, "
            "or start the next `phase:` with a new salt"
        )


def check_plan(ledger: Ledger, experiment: Experiment) -> None:
    """Refuse a configuration that differs from the frozen plan.

    Raises:
        PlanChangedError: With the path, old and new value of each change.
    """
    _refuse_old_salt(ledger, experiment)
    if ledger.plan is None or ledger.plan["plan_hash"] == experiment.plan_hash:
        return
    frozen = ledger.plan["document"]
    changes = differences(_with_defaults(frozen, experiment), experiment.plan_document)
    if changes:
        raise PlanChangedError(experiment.slug, changes)


def frozen_experiment(document: dict[str, Any], present: Experiment) -> Experiment:
    """The experiment of a frozen plan; words for people come from the present file."""
    fields = document | {"owner": present.owner, "spec": present.spec}
    # The ledger sorts keys; the order of the arms decides how sums are added up.
    variants = {arm: fields["variants"][arm] for arm in fields.pop("arms")}
    return Experiment.model_validate(fields | {"variants": variants})


def _with_defaults(document: dict[str, Any], present: Experiment) -> dict[str, Any]:
    """A frozen plan as this program would write it, with options that it did not know yet.

    An option that is left at its default is no change of the plan.
    """
    try:
        written = frozen_experiment(document, present).plan_document
    except ValidationError:
        return document  # it has what this program does not know: every difference is shown
    return written | {"salt": document["salt"]}


def _refuse_old_salt(ledger: Ledger, experiment: Experiment) -> None:
    """A new phase with an old salt would keep every unit in its old arm, carry-over included."""
    salt = experiment.plan_document["salt"]
    for phase in range(1, experiment.phase):
        earlier = Ledger(ledger.layout, ledger.slug, phase).refresh().plan
        if earlier is not None and earlier["document"]["salt"] == salt:
            change = f"phase {experiment.phase} has the salt of phase {phase}; it needs a new one"
            raise PlanChangedError(experiment.slug, [change])


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The leaves in which two plain documents differ, as `path: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            place = f"{path}.{key}" if path else str(key)
            found += differences(old.get(key), new.get(key), place)
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            change
            for index, (before, after) in enumerate(zip(old, new, strict=True))
            for change in differences(before, after, f"{path}.{index}")
        ]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]

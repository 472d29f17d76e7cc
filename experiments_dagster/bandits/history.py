"""The recorded periods of a bandit: write-once files, chained by hashes.

    plan.json       what the first period froze
    000001.json     the shares of period 1
    000004.json     those of period 4; until then the shares of period 1 stayed in force

A file is created by linking a finished one to its final name, which fails if the name exists: of
two runs that compute a period at the same time one wins, and the other reads what it wrote.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from experiments_dagster.bandits.records import FORMAT, Period
from experiments_dagster.config.bandit import Bandit
from experiments_dagster.looks.plan import differences
from experiments_dagster.storage.atomic import canonical_json, write_once
from experiments_dagster.storage.errors import DataDamagedError, StorageError
from experiments_dagster.storage.layout import Layout

HINT = "restore the records from your backup; no shares are handed out until they are whole"


class BanditChangedError(ValueError):
    """The configuration no longer says what the first period froze. Lists each change."""

    def __init__(self, slug: str, changes: list[str]) -> None:
        self.changes = changes
        super().__init__(
            f"{slug}: the bandit changed after its first period: {'; '.join(changes)}. Hint: take "
            "the change back, or start another bandit in a file of its own"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The frozen plan and the recorded periods, with the SHA-256 and bytes of their files."""

    slug: str
    plan: dict[str, Any] | None
    periods: tuple[Period, ...]
    contents: tuple[bytes, ...]
    head: str

    def frozen(self, present: Bandit) -> Bandit:
        """The bandit as its first period froze it; words for people come from the present file."""
        if self.plan is None:
            return present
        return Bandit.model_validate(
            self.plan["document"] | {"owner": present.owner, "alpha": present.alpha}
        )

    def check_plan(self, present: Bandit) -> None:
        """Refuse a configuration that differs from the frozen plan.

        Raises:
            BanditChangedError: With the path, old and new value of each change.
        """
        if self.plan is not None and self.plan["plan_hash"] != present.plan_hash:
            changes = differences(self.plan["document"], present.plan_document)
            raise BanditChangedError(self.slug, changes)


def period_folder(layout: Layout, slug: str) -> Path:
    """Where the records of a bandit lie."""
    return layout.results("bandit_periods", slug)


def read_history(layout: Layout, slug: str) -> History:
    """Read the frozen plan and all recorded periods, and verify their chain.

    Raises:
        DataDamagedError: A record is missing, cut, changed or out of order.
    """
    folder = period_folder(layout, slug)
    plan_file = folder / "plan.json"
    if not plan_file.exists():
        if next(folder.glob("[0-9]*.json"), None) is not None:
            raise DataDamagedError(plan_file, "is missing beside the records that rest on it", HINT)
        return History(slug=slug, plan=None, periods=(), contents=(), head="")
    content = plan_file.read_bytes()
    plan = _document(plan_file, content)
    head, periods, contents = _sha256(content), [], []
    for path in sorted(folder.glob("[0-9]*.json")):
        content = path.read_bytes()
        try:
            period = Period.model_validate(_document(path, content))
        except ValidationError:
            raise DataDamagedError(path, "is not the record of a period", HINT) from None
        if period.previous != head or path.name != _name(period.period):
            raise DataDamagedError(path, "does not follow the record before it", HINT)
        head = _sha256(content)
        periods.append(period)
        contents.append(content)
    return History(
        slug=slug, plan=plan, periods=tuple(periods), contents=tuple(contents), head=head
    )


def freeze_plan(layout: Layout, bandit: Bandit) -> None:
    """Write what the bandit's shares rest on, once."""
    document = {
        "format": FORMAT,
        "plan_hash": bandit.plan_hash,
        "document": bandit.plan_document,
    }
    write_once(period_folder(layout, bandit.slug) / "plan.json", canonical_json(document))


def record_period(layout: Layout, period: Period) -> bool:
    """Write a period's record; False if there is one already (it is left alone)."""
    return write_once(period_folder(layout, period.bandit) / _name(period.period), encoded(period))


def encoded(period: Period) -> bytes:
    """The bytes of a record."""
    return canonical_json(period.model_dump(mode="json"))


def _document(path: Path, content: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(content)
        version = document["format"]
    except (ValueError, KeyError, TypeError):
        raise DataDamagedError(path, "is not a record of a bandit", HINT) from None
    if version > FORMAT:
        rule = f"format {version} is newer than this program reads ({FORMAT})"
        raise StorageError(f"{path}: {rule}. Hint: update experiments-dagster")
    return document


def _name(period: int) -> str:
    return f"{period:06d}.json"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""The recorded periods of a bandit: write-once files, chained by hashes.

    plan.json       what the first period froze
    000001.json     the shares of period 1
    000004.json     those of period 4; until then the shares of period 1 stayed in force

A file is created by linking a finished one to its final name, which fails if the name exists: of
two runs that compute a period at the same time one wins, and the other reads what it wrote.

The number of records and the SHA-256 of the last one also stand outside their folder, in
`bandit_heads`: records that are lost from the end are noticed. The head is replaced after each
record, so a run that dies between the two leaves it one record behind, which the next run mends.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from experiments_dagster.bandits.records import FORMAT, Period
from experiments_dagster.config.bandit import Bandit
from experiments_dagster.looks.plan import differences
from experiments_dagster.storage.atomic import (
    canonical_json,
    exclusive,
    write_bytes,
    write_once,
)
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


def head_file(layout: Layout, slug: str) -> Path:
    """Where the number of records and the hash of the last one stand a second time."""
    return layout.results("bandit_heads", slug) / "head.json"


def recorded_bandits(layout: Layout) -> list[str]:
    """Every bandit with records or a head, whether it is still configured or not."""
    folders = (period_folder(layout, "_").parent, head_file(layout, "_").parents[1])
    return sorted({path.name for folder in folders for path in folder.glob("*") if path.is_dir()})


def read_history(layout: Layout, slug: str) -> History:
    """Read the frozen plan and all recorded periods, and verify their chain and its head.

    Raises:
        DataDamagedError: A record is missing, cut, changed or out of order.
    """
    # The head first: it is written after its record, which is then among the files read next.
    head = _read_head(layout, slug)
    history = _read_chain(layout, slug)
    _check_head(layout, history, head)
    return history


def _read_chain(layout: Layout, slug: str) -> History:
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
    write_head(layout, bandit.slug)


def record_period(layout: Layout, period: Period) -> bool:
    """Write a period's record, then the head; False if there is one already (left alone)."""
    folder = period_folder(layout, period.bandit)
    is_written = write_once(folder / _name(period.period), encoded(period))
    if is_written:
        write_head(layout, period.bandit)
    return is_written


def write_head(layout: Layout, slug: str) -> None:
    """Bring the head up to the last record, unless it stands there already.

    Raises:
        DataDamagedError: The records are not what the head says.
    """
    path = head_file(layout, slug)
    # One at a time, so that no slower run puts an older head over a newer one.
    with exclusive(path.with_name(".lock"), lambda owner: f"{slug}: held by {owner}", wait=True):
        history, seen = read_history(layout, slug), _read_head(layout, slug)
        head = _Head(n_periods=len(history.periods), sha256=history.head)
        if history.plan is not None and head != seen:
            write_bytes(path, canonical_json({"format": FORMAT, **asdict(head)}))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """How many periods are recorded, and the SHA-256 of the last one, or of the plan alone."""

    n_periods: int
    sha256: str


def _read_head(layout: Layout, slug: str) -> _Head | None:
    path = head_file(layout, slug)
    try:
        document = _document(path, path.read_bytes())
    except FileNotFoundError:
        return None
    n_periods, sha256 = document.get("n_periods"), document.get("sha256")
    if not isinstance(n_periods, int) or not isinstance(sha256, str):
        raise DataDamagedError(path, "is not the head of a bandit's records", HINT)
    return _Head(n_periods=n_periods, sha256=sha256)


def _check_head(layout: Layout, history: History, head: _Head | None) -> None:
    """Notice that the end of the chain is lost or changed, which the chain cannot."""
    folder, found = period_folder(layout, history.slug), len(history.periods)
    if head is None:
        # A run that died before its plan had a head has no record yet.
        if history.periods:
            path, rule = head_file(layout, history.slug), f"is missing beside {found} records"
            raise DataDamagedError(path, rule, HINT)
        return
    if not head.n_periods <= found <= head.n_periods + 1:
        rule = f"{head.n_periods} periods were recorded, {found} are here"
        raise DataDamagedError(folder, rule, HINT)
    if history.plan is None:
        raise DataDamagedError(folder / "plan.json", "is missing, but was frozen", HINT)
    is_ahead = found > head.n_periods
    seen = history.periods[-1].previous if is_ahead else history.head
    if seen != head.sha256:
        rule = f"period record {head.n_periods} is not the one that the head names"
        raise DataDamagedError(folder, rule, HINT)


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

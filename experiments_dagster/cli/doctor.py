"""`experiments doctor`: is everything that must never be lost still there and whole?"""

from __future__ import annotations

import shutil
from typing import Any

from experiments_dagster.bandits.history import read_history, recorded_bandits
from experiments_dagster.config.project import Project
from experiments_dagster.storage.catalog import publish_catalog
from experiments_dagster.storage.errors import StorageError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.ledger import Ledger
from experiments_dagster.storage.manifest import Manifest


def examine(project: Project) -> list[dict[str, Any]]:
    """Findings in order: manifest, landed files, ledgers, bandits, staging, catalog."""
    layout = Layout(project.storage)
    findings: list[dict[str, Any]] = []

    def finding(subject: str, message: str, *, ok: bool) -> None:
        findings.append({"subject": subject, "ok": ok, "message": message})

    manifest = Manifest(layout)
    try:
        manifest.refresh()
        finding("manifest", f"{manifest.head} batches, chain unbroken", ok=True)
    except StorageError as error:
        finding("manifest", str(error), ok=False)
    tables = [
        part.table
        for batch in manifest.batches
        for part in batch.sources.values()
        if part.table is not None
    ]
    damaged = 0
    for table in tables:
        try:
            manifest.verified(table)
        except StorageError as error:
            damaged += 1
            finding("landed file", str(error), ok=False)
    whole = len(tables) - damaged
    finding("landed files", f"{whole} of {len(tables)} match the manifest", ok=not damaged)
    for folder in sorted((layout.root / "ledger").glob("*/phase-*")):
        slug, phase = folder.parent.name, int(folder.name.removeprefix("phase-"))
        try:
            ledger = Ledger(layout, slug, phase).refresh()
        except StorageError as error:
            finding(f"ledger {slug}", str(error), ok=False)
            continue
        open_look = ", one look reserved and unfinished" if ledger.reserved else ""
        text = f"{len(ledger.looks)} looks, chain unbroken{open_look}"
        finding(f"ledger {slug} phase {phase}", text, ok=True)
    for slug in recorded_bandits(layout):
        message, is_whole = _bandit(layout, slug)
        finding(f"bandit {slug}", message, ok=is_whole)
    leftovers = [path for path in layout.staging.glob("*") if path.is_file()]
    if leftovers:
        kept = sum(path.stat().st_size for path in leftovers)
        finding("staging", f"{len(leftovers)} unfinished files, {kept} bytes", ok=True)
    if layout.root.exists():
        publish_catalog(layout)
        free = shutil.disk_usage(layout.root).free
        finding("catalog", f"rebuilt; {free / 1e9:.1f} GB free", ok=True)
    return findings


def _bandit(layout: Layout, slug: str) -> tuple[str, bool]:
    """What is to be said of a bandit's records, and whether they are whole."""
    try:
        return f"{len(read_history(layout, slug).periods)} periods, chain unbroken", True
    except StorageError as error:
        return str(error), False

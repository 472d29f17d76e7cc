"""Where everything lies below the storage root. Nothing else builds paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one storage root.

    Landed data, manifest, ledger and results must never be lost; frames, reports, staging and
    the catalog can be rebuilt.
    """

    root: Path

    @property
    def manifest(self) -> Path:
        """One file per landed batch."""
        return self.root / "landing" / "manifest"

    def landed(self, source: str, sequence: int) -> Path:
        """Rows of one source that one batch keeps."""
        return self.root / "landing" / source / f"{sequence:06d}.parquet"

    def quarantined(self, source: str, sequence: int) -> Path:
        """Rows of one source that one batch refuses, with the reason."""
        return self.root / "landing" / "quarantine" / source / f"{sequence:06d}.parquet"

    @property
    def staging(self) -> Path:
        """Unfinished files; safe to delete when nothing runs."""
        return self.root / "staging"

    @property
    def spill(self) -> Path:
        """DuckDB's temporary files."""
        return self.root / "staging" / "spill"

    def unit_days(self, source: str, measures_hash: str) -> Path:
        """Partial aggregates per batch for one set of measures."""
        return self.root / "frames" / "unit_days" / source / measures_hash

    def unit_rows(self, key: str) -> Path:
        """Unit rows of the experiments that add up the same windows."""
        return self.root / "frames" / "unit_rows" / key

    def frame(self, name: str, slug: str) -> Path:
        """Published frames of one experiment or intervention."""
        return self.root / "frames" / name / slug

    def ledger(self, slug: str, phase: int) -> Path:
        """The look ledger of one experiment phase."""
        return self.root / "ledger" / slug / f"phase-{phase}"

    def results(self, name: str, slug: str) -> Path:
        """Result tables of one experiment or intervention."""
        return self.root / "results" / name / slug

    def reports(self, slug: str) -> Path:
        """HTML reports."""
        return self.root / "reports" / slug

    @property
    def outbox(self) -> Path:
        """Alerts that are or were to be delivered."""
        return self.root / "alerts"

    @property
    def catalog(self) -> Path:
        """Views over frames and results for anybody with DuckDB."""
        return self.root / "experiments.duckdb"

    @property
    def dagster_home(self) -> Path:
        """Dagster's own storage."""
        return self.root / "dagster"

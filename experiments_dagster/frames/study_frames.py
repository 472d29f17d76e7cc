"""study_frame of one intervention as of a cut-off: build, validate, promote.

A table of the project folder is copied into the frame with its SHA-256, so that a result stays
what it was when somebody edits the file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import polars as pl

from experiments_dagster.config.intervention import PanelSpec, UnitSpec
from experiments_dagster.config.project import Intervention, Project
from experiments_dagster.config.resolve import canonical_hash
from experiments_dagster.config.study_data import PanelEvents, UnitsEvents
from experiments_dagster.contracts.studies import validate_panel, validate_units
from experiments_dagster.frames.study_events import (
    EventReader,
    missing_days,
    panel_from_events,
    units_from_events,
)
from experiments_dagster.frames.study_tables import read_panel_file, read_units_file
from experiments_dagster.storage.atomic import canonical_json, sha256_file, staged, write_bytes
from experiments_dagster.storage.errors import ContractError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

NAME = "study_frame"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFrameInfo:
    """A published study frame and what it was made from; `left_out` counts rows by reason."""

    intervention: str
    cutoff: int
    study_frame: str
    sha256: str
    rows: int
    outcome: str
    has_units: bool
    inputs: dict[str, str]
    left_out: dict[str, int] = field(default_factory=dict)
    config_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFrame:
    """Rows of a panel or of units, as `study_tables` names their columns."""

    info: StudyFrameInfo
    rows: pl.DataFrame


def not_ready(project: Project, manifest: Manifest, intervention: Intervention) -> str | None:
    """Why the frame cannot be made yet, or None; a table of the project is always there."""
    if intervention.files:
        return None
    return missing_days(EventReader(project, manifest, manifest.head), intervention)


def build_study_frame(
    project: Project, manifest: Manifest, intervention: Intervention, *, cutoff: int
) -> StudyFrame:
    """Build the frame and publish it when its contract holds.

    Raises:
        ContractError: A column, a value or a unit is not what the file in configs/ says, no unit
            of the group has landed, or the frame breaks its contract.
        DataDamagedError: A landed file that is needed is damaged.
    """
    slug, layout = intervention.slug, manifest.layout
    reader = EventReader(project, manifest, cutoff)
    try:
        # Before they are read: an edit meanwhile then counts as news.
        files = {path.name: sha256_file(path) for path in intervention.files}
        rows, left_out = _read(reader, intervention)
    except (ValueError, OSError) as error:
        raise ContractError(f"{NAME} of {slug}", {str(error): 1}) from None
    spec = intervention.spec
    is_panel = isinstance(spec, PanelSpec)
    if rows.is_empty():
        raise ContractError(f"{NAME} of {slug}", {"no unit": 0})
    (validate_panel if is_panel else validate_units)(rows, slug)
    inputs = reader.inputs | files
    made_from = canonical_hash([inputs, intervention.config_hash])
    target = layout.frame(NAME, slug) / f"{cutoff:06d}-{made_from}.parquet"
    with staged(target, layout.staging) as temporary:
        rows.write_parquet(temporary, compression="zstd")
        digest = sha256_file(temporary)
    info = StudyFrameInfo(
        intervention=slug,
        cutoff=cutoff,
        study_frame=str(target.relative_to(layout.root)),
        sha256=digest,
        rows=rows.height,
        outcome=_outcome(intervention),
        has_units=not (isinstance(spec, PanelSpec) and getattr(spec.panel, "unit", "") is None),
        inputs=inputs,
        left_out=left_out,
        config_hash=intervention.config_hash,
    )
    write_bytes(layout.frame(NAME, slug) / "current.json", canonical_json(asdict(info)))
    return StudyFrame(info=info, rows=rows)


def read_study_frame(layout: Layout, slug: str) -> StudyFrame:
    """The published frame of an intervention.

    Raises:
        FileNotFoundError: None has been published yet.
    """
    info = StudyFrameInfo(**json.loads((layout.frame(NAME, slug) / "current.json").read_bytes()))
    return StudyFrame(info=info, rows=pl.read_parquet(layout.root / info.study_frame))


def _read(reader: EventReader, intervention: Intervention) -> tuple[pl.DataFrame, dict[str, int]]:
    spec, metrics = intervention.spec, intervention.metrics
    if isinstance(spec, PanelSpec):
        if isinstance(spec.panel, PanelEvents):
            return panel_from_events(reader, spec.panel, metrics)
        return read_panel_file(intervention.files[0], spec.panel, spec.predictor_columns)
    assert isinstance(spec, UnitSpec)
    if isinstance(spec.units, UnitsEvents):
        return units_from_events(reader, spec.units, metrics)
    return read_units_file(intervention.files[0], spec.units)


def _outcome(intervention: Intervention) -> str:
    """The outcome in words."""
    spec = intervention.spec
    if isinstance(spec, PanelSpec):
        if isinstance(spec.panel, PanelEvents):
            per = "week" if spec.panel.frequency == "weekly" else "day"
            return f"{spec.panel.metric} per {per}"
        return spec.panel.outcome
    assert isinstance(spec, UnitSpec)
    return spec.units.outcome.metric if isinstance(spec.units, UnitsEvents) else spec.units.outcome

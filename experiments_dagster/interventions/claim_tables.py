"""What every design publishes alike: a version, a row per estimate and a row per refutation.

A version is the cut-off and a hash of frame and configuration: the same inputs give the same
version, and nothing is written over with other numbers.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from experiments_dagster.config.project import Intervention
from experiments_dagster.config.resolve import canonical_hash
from experiments_dagster.storage.atomic import sha256_file, staged
from experiments_dagster.storage.layout import Layout

_HEAD: dict[str, Any] = {
    "intervention": pl.String,
    "cutoff": pl.Int64,
    "version": pl.String,
    "claim": pl.String,
}
_ESTIMATES: dict[str, Any] = {
    **dict.fromkeys(("name", "method"), pl.String),
    **dict.fromkeys(("estimate", "std_error", "ci_low", "ci_high"), pl.Float64),
    **dict.fromkeys(("confidence_level", "p_value"), pl.Float64),
    **dict.fromkeys(("unit", "reason"), pl.String),
}
_REFUTATIONS: dict[str, Any] = {
    "name": pl.String,
    "passed": pl.Boolean,
    "severity": pl.String,
    **dict.fromkeys(("value", "threshold"), pl.Float64),
    "message": pl.String,
}


def version_of(cutoff: int, frame: str, intervention: Intervention) -> str:
    """Names the numbers that a frame (its SHA-256) gives under a configuration."""
    return f"{cutoff:06d}-{canonical_hash([frame, intervention.config_hash])}"


def refuse_older_frame(intervention: Intervention, config_hash: str) -> None:
    """A frame stands for the configuration that it was built from.

    Raises:
        ValueError: The file in configs/ or a metric was edited since.
    """
    if config_hash != intervention.config_hash:
        slug = intervention.slug
        msg = f"{slug}: edited since its frame was built; run `experiments run {slug}`"
        raise ValueError(msg)


def write_claim_tables(
    layout: Layout, slug: str, document: dict[str, Any], *, cutoff: int, version: str
) -> None:
    """Write `causal_estimates` and `causal_refutations` of a study's document."""
    constant = {
        "intervention": slug,
        "cutoff": cutoff,
        "version": version,
        "claim": document["claim"]["status"],
    }
    tables = {
        "causal_estimates": (document["estimates"], _ESTIMATES),
        "causal_refutations": (document["refutations"], _REFUTATIONS),
    }
    for name, (rows, schema) in tables.items():
        kept = [{key: row[key] for key in schema} for row in rows]
        table = pl.DataFrame([constant | row for row in kept], schema=_HEAD | schema)
        target = layout.results(name, slug) / f"{version}.parquet"
        with staged(target, layout.staging) as temporary:
            table.write_parquet(temporary, compression="zstd")


def file_hashes(intervention: Intervention) -> dict[str, str] | None:
    """SHA-256 of the tables it reads, by name; None where one is not there (any more)."""
    try:
        return {path.name: sha256_file(path) for path in intervention.files}
    except OSError:
        return None


def has_changed(intervention: Intervention, head: int, done: dict[str, Any]) -> bool:
    """Whether data, table or configuration are other than those behind a document.

    Args:
        intervention: As it is configured now.
        head: Number of the last landed batch.
        done: A document with `config_hash`, `inputs` and `cutoff`.
    """
    if done.get("config_hash") != intervention.config_hash:
        return True
    if intervention.files:
        return bool(done["inputs"] != file_hashes(intervention))
    return bool(done["cutoff"] != head)

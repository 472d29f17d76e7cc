"""The alpha ledger of one experiment, for people and scripts."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.take import open_ledger
from experiments_dagster.storage.manifest import Manifest


def ledger_document(manifest: Manifest, experiment: Experiment) -> dict[str, Any]:
    """One row per look and hypothesis, and what is left of alpha per hypothesis."""
    ledger = open_ledger(manifest, experiment)
    looks = recorded_looks(ledger)
    rows = [
        {
            "look": look.look,
            "look_id": look.look_id,
            "as_of": look.as_of,
            "cutoff": look.cutoff,
            "verdict": look.verdict,
            **boundary.model_dump(mode="json"),
        }
        for look in looks
        for boundary in look.boundaries
    ]
    left = {
        f"{row['kind']} {row['metric']} {row['arm']}": row["alpha"] - row["alpha_spent"]
        for row in rows
    }
    return {
        "experiment": experiment.slug,
        "phase": experiment.phase,
        "plan_hash": ledger.plan["plan_hash"] if ledger.plan else None,
        "looks": len(looks),
        "is_reserved": ledger.reserved is not None,
        "head": ledger.head,
        "rows": rows,
        "alpha_left": left,
    }


def ledger_table(document: dict[str, Any]) -> Table:
    """The rows as a table."""
    table = Table(
        title=f"{document['experiment']}, phase {document['phase']}, plan {document['plan_hash']}",
        title_justify="left",
        box=None,
        padding=(0, 2),
    )
    for name in ("look", "as of", "hypothesis"):
        table.add_column(name, no_wrap=True)
    for name in ("information", "spent before", "spent", "boundary", "z"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("crossed", no_wrap=True)
    for row in document["rows"]:
        critical = row["critical_value"]
        table.add_row(
            str(row["look"]),
            row["as_of"][:10],
            escape(f"{row['kind']} {row['metric']} / {row['arm']}"),
            f"{row['information_fraction']:.3f}",
            f"{row['alpha_spent_before']:.5f}",
            f"{row['alpha_spent']:.5f}",
            "none" if critical is None else f"{critical:.3f}",
            f"{row['statistic']:+.2f}",
            row["crossed"],
        )
    return table

"""What a reproduction shows: each primary number as seen and as recomputed."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from experiments_dagster.looks.reproduce import Reproduction


def reproduction_document(result: Reproduction, *, head: int) -> dict[str, Any]:
    """The comparison as plain data; `head` is the newest landed batch."""
    equal = not result.differences
    later = head - result.seen.cutoff
    summary = (
        f"{result.seen.look_id}: {result.n_compared} numbers compared, "
        + ("all equal" if equal else f"{len(result.differences)} differ")
        + f"; {later} batches have landed since its cut-off {result.seen.cutoff}"
    )
    return {
        "look": result.seen.look_id,
        "equal": equal,
        "numbers_compared": result.n_compared,
        "differences": list(result.differences),
        "cutoff": result.seen.cutoff,
        "batches_since": later,
        "summary": summary,
        "seen": [effect.model_dump(mode="json") for effect in result.seen.effects],
        "again": [effect.model_dump(mode="json") for effect in result.again.effects],
    }


def reproduction_table(result: Reproduction) -> Table:
    """Effects as seen and as recomputed, to all digits."""
    table = Table(title=result.seen.look_id, title_justify="left", box=None, padding=(0, 2))
    for name in ("metric", "arm", "effect", "as seen", "recomputed"):
        table.add_column(name)
    table.add_column("equal")
    for seen, again in zip(result.seen.effects, result.again.effects, strict=False):
        label = f"{seen.estimand}{' adjusted' if seen.is_adjusted else ''}"
        table.add_row(
            seen.metric,
            seen.arm,
            label,
            repr(seen.estimate) if seen.estimate is not None else str(seen.reason),
            repr(again.estimate) if again.estimate is not None else str(again.reason),
            "yes"
            if seen == again
            else "[yellow]to rounding[/]"
            if not result.differences
            else "NO",
        )
    for line in result.differences[:20]:
        table.add_row("[red]differs[/]", "", line)
    return table

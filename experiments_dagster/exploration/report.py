"""An exploration as a page and as tables: the facts of `facts`, laid out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from experiments_dagster import __version__
from experiments_dagster.exploration.charts import exposures_chart
from experiments_dagster.exploration.facts import BALANCE_LIMIT, Fact
from experiments_dagster.exploration.record import Exploration
from experiments_dagster.reporting.blocks import (
    PHONE,
    WIDE,
    Badge,
    Block,
    Cell,
    Facts,
    Heading,
    Paragraph,
    Report,
    Table,
    Tile,
    exact,
    figure,
    render,
)
from experiments_dagster.reporting.blocks import Section as Part
from experiments_dagster.reporting.numbers import (
    DASH,
    Format,
    count,
    number,
    plural,
    share,
    signed,
)
from experiments_dagster.reporting.tables import markdown_table

NO_LOOK = (
    "Outcomes are shown over all arms together. Arms are compared only on what was known before "
    "exposure. Reading this is no look and spends no alpha."
)
DISTRIBUTION = {
    "n": "n", "missing_share": "missing", "zero_share": "zero", "mean": "mean",
    "std_dev": "std. dev.", "skewness": "skew", "p05": "p05", "p50": "median", "p95": "p95",
    "p99": "p99", "max": "max", "top_1pct_share": "top 1% holds", "pre_correlation": "r with pre",
}  # fmt: skip
BRIEF = ("n", "missing_share", "zero_share", "mean", "std_dev", "skewness", "p50", "p99",
         "top_1pct_share", "pre_correlation")  # fmt: skip
SHARES = ("missing_share", "zero_share", "top_1pct_share", "share", "zero_denominator_share")
MOST_CORRELATED = 20

Grid = dict[tuple[str, str], dict[str, Fact]]


def metrics_sheet(
    exploration: Exploration, chosen: Sequence[str] = tuple(DISTRIBUTION)
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the distributions: a row per column of numbers.

    Args:
        exploration: What was found.
        chosen: Statistics to show.
    """
    grid = _grid(exploration.section("metrics"))
    names = [name for name in chosen if any(name in facts for facts in grid.values())]
    header = ["column", *(DISTRIBUTION[name] for name in names)]
    rows = [
        [subject, *(_shown(facts.get(name)) for name in names)]
        for (subject, _), facts in grid.items()
        if "n" in facts
    ]
    return header, rows


def balance_sheet(exploration: Exploration) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the balance: a row per column from before exposure and arm."""
    header = ["column", "arm", "n", "mean", "std. dev.", "std. difference"]
    names = ("n", "mean", "std_dev", "standardized_difference")
    rows = [
        [subject, arm, *(_shown(facts.get(name)) for name in names)]
        for (subject, arm), facts in _grid(exploration.section("balance")).items()
    ]
    return header, rows


def unbalanced(exploration: Exploration) -> list[str]:
    """Columns whose standardized difference is beyond the limit in some arm."""
    beyond = (
        fact.subject
        for fact in exploration.section("balance")
        if fact.statistic == "standardized_difference"
        and fact.value is not None
        and abs(fact.value) > BALANCE_LIMIT
    )
    return list(dict.fromkeys(beyond))


def strongest(exploration: Exploration) -> list[Fact]:
    """The largest correlations."""
    known = [fact for fact in exploration.section("correlation") if fact.value is not None]
    return sorted(known, key=lambda fact: -abs(fact.value or 0.0))[:MOST_CORRELATED]


def markdown_summary(exploration: Exploration) -> str:
    """The distributions as one Markdown table."""
    header, rows = metrics_sheet(exploration)
    return markdown_table(header, rows, align="l" + "r" * (len(header) - 1))


def render_exploration(exploration: Exploration) -> str:
    """One self-contained HTML page."""
    wanted: list[tuple[str, str, list[Block]]] = [
        ("quality", "Data quality", _quality(exploration)),
        ("metrics", "Distributions", _distributions(exploration)),
        ("exposures", "Exposures by day", _exposures(exploration)),
        ("segments", "Levels", _levels(exploration)),
        ("balance", "Balance before exposure", _balance(exploration)),
        ("correlation", "Correlation", _correlation(exploration)),
    ]
    sections = tuple(
        Part(name=name, title=title, blocks=tuple(blocks))
        for name, title, blocks in wanted
        if blocks
    )
    return render(
        Report(
            kind="Exploration",
            title=exploration.subject,
            lead="What the data look like, before anybody compares arms.",
            meta=tuple(f"{name} {value}" for name, value in exploration.origin.items()),
            badge=Badge(words="EXPLORATION", tone="explore"),
            headline=_headline(exploration),
            reasons=(NO_LOOK,),
            tiles=_tiles(exploration),
            notes=tuple(Paragraph(words=(note,), tone="note") for note in exploration.notes),
            sections=sections,
            footer=f"Generated by experiments_dagster {__version__}.",
        )
    )


def _headline(exploration: Exploration) -> str:
    found = unbalanced(exploration)
    if found:
        named = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if found[3:] else "")
        return f"Arms differ by more than {BALANCE_LIMIT:g} std. dev. before exposure: {named}."
    n = sum(1 for fact in exploration.section("metrics") if fact.statistic == "n")
    return f"{plural(n, 'column')} of numbers, described over all units together."


def _tiles(exploration: Exploration) -> tuple[Tile, ...]:
    """Units, or the rows of a file."""
    return tuple(
        Tile(label=f"{fact.subject} {fact.level}".strip(), value=_cell(fact))
        for fact in exploration.section("units")
    )


def _quality(exploration: Exploration) -> list[Block]:
    facts = exploration.section("quality")
    blocks: list[Block] = []
    for subject in dict.fromkeys(fact.subject for fact in facts):
        own = [fact for fact in facts if fact.subject == subject]
        whole = tuple(
            (fact.statistic.replace("_", " "), _cell(fact)) for fact in own if not fact.level
        )
        blocks += [Heading(words=subject), Facts(rows=whole)]
        blocks.append(_table(_grid([fact for fact in own if fact.level]), "column", by_level=True))
    return blocks


def _distributions(exploration: Exploration) -> list[Block]:
    facts = exploration.section("metrics")
    if not facts:
        return []
    grid = {key: found for key, found in _grid(facts).items() if "n" in found}
    blocks: list[Block] = [_table(grid, "column", only=DISTRIBUTION)]
    ratios = [*exploration.section("derived"), *facts]
    ratio_grid = {k: found for k, found in _grid(ratios).items() if "ratio_of_totals" in found}
    if ratio_grid:
        blocks.append(_table(ratio_grid, "ratio"))
    return blocks


def _exposures(exploration: Exploration) -> list[Block]:
    facts = exploration.section("exposures")
    if not facts:
        return []
    days = [(dt.date.fromisoformat(fact.level), int(fact.value or 0)) for fact in facts]
    wide, phone = (exposures_chart(days, width=width) for width in (WIDE, PHONE))
    return [figure(wide, phone, "First exposures of units, all arms together, by local day.")]


def _levels(exploration: Exploration) -> list[Block]:
    facts = exploration.section("segments")
    return [
        _table(_grid([fact for fact in facts if fact.subject == subject]), subject, by_level=True)
        for subject in dict.fromkeys(fact.subject for fact in facts)
    ]


def _balance(exploration: Exploration) -> list[Block]:
    header, rows = balance_sheet(exploration)
    if not rows:
        return []
    beyond = set(unbalanced(exploration))
    strong = frozenset(k for k, row in enumerate(rows) if row[0] in beyond and row[-1] != DASH)
    note = (
        "Standardized difference: difference of the means in units of the spread. It does not grow "
        f"with the number of units; beyond {BALANCE_LIMIT:g} a comparison without adjustment is in "
        "doubt."
    )
    align = "llrrrr"
    cells: tuple[tuple[Cell, ...], ...] = tuple(tuple(row) for row in rows)
    return [
        Table(header=tuple(header), rows=cells, align=align, strong=strong),
        Paragraph(words=(note,), tone="muted"),
    ]


def _correlation(exploration: Exploration) -> list[Block]:
    found = strongest(exploration)
    if not found:
        return []
    rows = tuple((fact.subject, fact.level, _cell(fact)) for fact in found)
    caption = f"The {count(len(rows))} strongest, over all units together."
    return [Table(header=("column", "with", "r"), rows=rows, align="llr", caption=caption)]


def _grid(facts: Sequence[Fact]) -> Grid:
    """Facts by (subject, level) and statistic, in order."""
    grid: Grid = {}
    for fact in facts:
        grid.setdefault((fact.subject, fact.level), {})[fact.statistic] = fact
    return grid


def _table(
    grid: Grid, first: str, *, only: dict[str, str] | None = None, by_level: bool = False
) -> Table:
    """A row per subject or level, a column per statistic."""
    seen = dict.fromkeys(name for facts in grid.values() for name in facts)
    names = [name for name in only or seen if name in seen]
    header = (first, *((only or {}).get(name, name.replace("_", " ")) for name in names))
    rows: list[tuple[Cell, ...]] = []
    for (subject, level), facts in grid.items():
        cells = [_cell(facts[name]) if name in facts else DASH for name in names]
        rows.append((level if by_level else subject, *cells))
    return Table(header=header, rows=tuple(rows), align="l" + "r" * len(names))


def _cell(fact: Fact) -> Cell:
    if fact.text is not None:
        return fact.text
    return exact(fact.value, _format(fact), fact.reason)


def _shown(fact: Fact | None) -> str:
    if fact is None:
        return DASH
    return DASH if fact.value is None else _format(fact)(fact.value)


def _format(fact: Fact) -> Format:
    """How a statistic is written."""
    if fact.statistic in SHARES:
        return share
    if fact.statistic == "n" or fact.statistic.startswith(("n_", "duplicate")):
        return _whole
    if fact.statistic in ("rows", "columns"):
        return _whole
    if fact.statistic in ("standardized_difference", "correlation", "pre_correlation"):
        return signed
    return number


def _whole(value: float) -> str:
    return count(round(value))

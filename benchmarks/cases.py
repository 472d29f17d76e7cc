"""What is measured and what is promised: two plain lists.

A case is a program that prints one line of JSON (`clock.py`); `{data}` in its command stands for
the folder of the data. A target compares one number of a case with that of another case, or with
a bound. To measure something new, add a case; to promise something about it, add a target.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from benchmarks.envs import python_of

SCAN = "bare scan"
OURS = "ours"
UNITS = {"seconds": "s", "cpu_seconds": "s", "peak_mb": "MB", "process_seconds": "s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One program.

    Attributes:
        name: Unique; shown in the tables.
        command: Its words, with `{data}` for the folder.
        scenario: Cases of one scenario must agree in their estimates.
        sizes: Data sizes it runs on.
        most_rounds: Slow programs run less often than the others.
        peer: The environment it needs, if not this project's.
        repeated: Whether its data has events twice, under the same event id.
    """

    name: str
    command: tuple[str, ...]
    scenario: str = "plain"
    sizes: tuple[str, ...] = ("S", "M")
    most_rounds: int = 9
    peer: str | None = None
    repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """At most this much.

    Attributes:
        what: In words, for the table.
        case: Whose number it is.
        at_most: The bound, in the unit of `key`, or as a ratio if there is a `base`.
        base: The case it is compared with, in the same rounds.
        key: `seconds`, `cpu_seconds`, `process_seconds` or `peak_mb`.
        size: Of the data; the target is looked at when that size is run.
        base_size: Of the data of `base`, if another. Ratios between sizes are of medians.
        per: What the number is divided by, such as the growth of the data.
    """

    what: str
    case: str
    at_most: float
    base: str | None = None
    key: str = "seconds"
    size: str = "M"
    base_size: str | None = None
    per: float = 1.0

    @property
    def unit(self) -> str:
        """Unit of `at_most`."""
        return "x" if self.base else UNITS[self.key]


def own(name: str, module: str, *words: str, **more: object) -> Case:
    """A program of this project: `python -m benchmarks.MODULE ...`."""
    return Case(name=name, command=(sys.executable, "-m", f"benchmarks.{module}", *words), **more)


def peer(name: str, folder: str, scenario: str, **more: object) -> Case:
    """A program of a peer, run by the Python of its environment."""
    python = str(python_of(folder))
    command = (python, "-W", "ignore", "-m", f"benchmarks.peers.{folder}.run", "{data}", scenario)
    scenario = "cuped" if scenario == "cuped" else "plain"
    return Case(name=name, command=command, scenario=scenario, peer=folder, **more)


ALL = ("S", "M", "L")
REPEATED = "repeated events"
ON_M = ("M",)
CASES = [
    own(SCAN, "bare_scan", "{data}", "plain", sizes=ALL),
    own(OURS, "ours", "plain", "{data}", sizes=ALL),
    own(f"{SCAN}, {REPEATED}", "bare_scan", "{data}", "plain", sizes=ALL, repeated=True),
    own(f"{SCAN} with ids, {REPEATED}", "bare_scan", "{data}", "ids", sizes=ALL, repeated=True),
    own(f"{OURS}, {REPEATED}", "ours", "dedup", "{data}", sizes=ALL, repeated=True),
    peer("tea-tasting, all events joined", "tea_tasting", "plain"),
    peer("tea-tasting, filtered first", "tea_tasting", "filtered"),
    peer("tea-tasting, CUPED, filtered first", "tea_tasting", "cuped", sizes=ON_M, most_rounds=1),
    peer("gbstats, one query per metric", "gbstats", "plain"),
    peer("gbstats, one query", "gbstats", "joint"),
    peer("gbstats, CUPED, one query", "gbstats", "cuped", sizes=ON_M, most_rounds=1),
    peer("spotify-confidence, users to pandas", "spotify_confidence", "plain"),
    peer("spotify-confidence, sums in SQL", "spotify_confidence", "sums"),
    peer("pandas + statsmodels, all events joined", "pandas_statsmodels", "plain", most_rounds=2),
    peer("pandas + statsmodels, filtered first", "pandas_statsmodels", "filtered", most_rounds=1),
    peer("ambrosia, filtered first", "ambrosia", "filtered", sizes=ON_M, most_rounds=1),
]


def against(base: str, at_most: float) -> Target:
    """Our time on M relative to that of another program."""
    return Target(what=f"M: time against {base}", case=OURS, at_most=at_most, base=base)


TARGETS = [
    against(SCAN, 3.0),
    against("tea-tasting, all events joined", 0.3),
    against("gbstats, one query per metric", 0.35),
    against("spotify-confidence, users to pandas", 0.6),
    against("pandas + statsmodels, all events joined", 0.12),
    Target(
        what="M: time with event ids deduplicated in the pass, against the bare scan",
        case=f"{OURS}, {REPEATED}",
        at_most=4.5,
        base=f"{SCAN}, {REPEATED}",
    ),
    Target(what="M: peak memory", case=OURS, at_most=500, key="peak_mb"),
    Target(
        what="L: time per event against M",
        case=OURS,
        at_most=1.1,
        base=OURS,
        size="L",
        base_size="M",
        per=5.0,
    ),
    Target(what="L: peak memory", case=OURS, at_most=1_500, key="peak_mb", size="L"),
    Target(
        what="L: peak memory with event ids deduplicated in the pass",
        case=f"{OURS}, {REPEATED}",
        at_most=4_500,
        key="peak_mb",
        size="L",
    ),
]

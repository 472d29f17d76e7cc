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
        prepare: What runs before, once and unmeasured: a project that has looked the day before.
        base: The case that its time is divided by in the tables.
        limit_seconds: It is stopped then, and shown as unfinished; that fails nothing.
    """

    name: str
    command: tuple[str, ...]
    scenario: str = "plain"
    sizes: tuple[str, ...] = ("S", "M")
    most_rounds: int = 9
    peer: str | None = None
    repeated: bool = False
    prepare: tuple[str, ...] = ()
    base: str = SCAN
    limit_seconds: float | None = None


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
        is_difference: Whether the number of `base` is taken off, instead of divided by.
    """

    what: str
    case: str
    at_most: float
    base: str | None = None
    key: str = "seconds"
    size: str = "M"
    base_size: str | None = None
    per: float = 1.0
    is_difference: bool = False

    @property
    def unit(self) -> str:
        """Unit of `at_most`."""
        return "x" if self.base and not self.is_difference else UNITS[self.key]


def own(name: str, module: str, *words: str, **more: object) -> Case:
    """A program of this project: `python -m benchmarks.MODULE ...`."""
    return Case(name=name, command=(sys.executable, "-m", f"benchmarks.{module}", *words), **more)


def day(name: str, what: str, number: str, **more: object) -> Case:
    """A look as data arrive, or its rebuild."""
    words = (what, number, "{data}")
    ready = (sys.executable, "-m", "benchmarks.looks", "prepare", number, "{data}")
    return own(name, "looks", *words, scenario=f"day {number}", sizes=ON_M, prepare=ready, **more)


def night(name: str, what: str, experiments: str, **more: object) -> Case:
    """The looks of a night."""
    ready = (sys.executable, "-m", "benchmarks.nights", "prepare", experiments, "{data}")
    words = (what, experiments, "{data}")
    return own(name, "nights", *words, scenario=name, sizes=ON_M, prepare=ready, **more)


def peer(name: str, folder: str, scenario: str, **more: object) -> Case:
    """A program of a peer, run by the Python of its environment."""
    python = str(python_of(folder))
    command = (python, "-W", "ignore", "-m", f"benchmarks.peers.{folder}.run", "{data}", scenario)
    scenario = "cuped" if scenario == "cuped" else "plain"
    return Case(name=name, command=command, scenario=scenario, peer=folder, **more)


def causal(name: str, task: str) -> Case:
    """A causal task of this project; it makes its own data, so their size does not matter."""
    scenario, sizes = task.replace("_", " "), ("M", "L")
    return own(name, "causal", task, scenario=scenario, sizes=sizes, base=name)


def causal_peer(base: str, package: str, folder: str, task: str) -> Case:
    """The same task by a peer, once and with a time limit."""
    module = f"benchmarks.peers.{folder}.run"
    return Case(
        name=f"{base}: {package}",
        command=(str(python_of(folder)), "-W", "ignore", "-m", module, task),
        scenario=task.replace("_", " "),
        sizes=("L",),
        most_rounds=1,
        peer=folder,
        base=base,
        limit_seconds=300,
    )


ALL = ("S", "M", "L")
REPEATED = "repeated events"
ON_M = ("M",)
BREADTH = {"sizes": ON_M, "most_rounds": 2}
INFERENCE = {
    "cells": "1,000 cells",
    "looks": "10,000 experiments of 28 looks",
    "boundaries": "boundaries of 50 looks",
    "bootstrap": "bootstrap of 1 million units, 2,000 times",
}
IMPACT = "impact on 1,096 days"
CONTROL = "synthetic control of 39 states"
PLACEBOS = "38 placebos, predictor weights given"
CASES = [
    own(SCAN, "bare_scan", "{data}", "plain", sizes=ALL),
    own(OURS, "ours", "plain", "{data}", sizes=ALL),
    own(f"{OURS}, contracts unchecked", "ours", "unchecked", "{data}"),
    # With a line per arm and a covariate for missing history: not the number of one pooled slope.
    own(f"{OURS}, CUPED", "ours", "cuped", "{data}", scenario="cuped, Lin"),
    own(f"{OURS}, 1 metric", "ours", "metrics-1", "{data}", scenario="1 metric", **BREADTH),
    own(f"{OURS}, 50 metrics", "ours", "metrics-50", "{data}", scenario="50 metrics", **BREADTH),
    own(f"{OURS}, 20 segments", "ours", "segments-20", "{data}", scenario="segments", **BREADTH),
    own("one pass in portable expressions", "definition", "portable", "{data}", scenario="totals"),
    own("one pass in hand-written SQL", "definition", "sql", "{data}", scenario="totals"),
    day("look on day 28", "look", "28"),
    day("look on day 28, nothing kept", "rebuild", "28", most_rounds=1),
    day("day 28 estimated in one pass, not recorded", "estimate", "28", most_rounds=2),
    day("look on day 2", "look", "2"),
    *(
        own(f"inference: {what}", "inference", name, scenario=name, sizes=("S",))
        for name, what in INFERENCE.items()
    ),
    night("night of 1 experiment", "plain", "1"),
    night("night of 1 experiment, in Dagster", "night", "1"),
    night("night of 20 experiments", "plain", "20"),
    night("night of 1,000 experiments, in Dagster", "night", "1000", most_rounds=1),
    own(f"{SCAN}, {REPEATED}", "bare_scan", "{data}", "plain", sizes=ALL, repeated=True),
    own(f"{SCAN} with ids, {REPEATED}", "bare_scan", "{data}", "ids", sizes=ALL, repeated=True),
    own(f"{OURS}, {REPEATED}", "ours", "dedup", "{data}", sizes=ALL, repeated=True),
    peer("tea-tasting, all events joined", "tea_tasting", "plain"),
    peer("tea-tasting, filtered first", "tea_tasting", "filtered", most_rounds=2),
    peer("tea-tasting, CUPED, filtered first", "tea_tasting", "cuped", sizes=ON_M, most_rounds=1),
    peer("gbstats, one query per metric", "gbstats", "plain"),
    peer("gbstats, one query", "gbstats", "joint", most_rounds=2),
    peer("gbstats, CUPED, one query", "gbstats", "cuped", sizes=ON_M, most_rounds=1),
    peer("spotify-confidence, users to pandas", "spotify_confidence", "plain"),
    peer("spotify-confidence, sums in SQL", "spotify_confidence", "sums", most_rounds=2),
    peer("pandas + statsmodels, all events joined", "pandas_statsmodels", "plain", most_rounds=2),
    peer("pandas + statsmodels, filtered first", "pandas_statsmodels", "filtered", most_rounds=1),
    peer("ambrosia, filtered first", "ambrosia", "filtered", sizes=ON_M, most_rounds=1),
    causal(IMPACT, "impact"),
    causal_peer(IMPACT, "tfcausalimpact", "tfcausalimpact", "impact"),
    causal_peer(IMPACT, "CausalPy", "causalpy", "impact"),
    causal(CONTROL, "synthetic_control"),
    causal_peer(CONTROL, "CausalPy", "causalpy", "synthetic_control"),
    causal(PLACEBOS, "placebos"),
    causal_peer(PLACEBOS, "pysyncon", "pysyncon", "placebos"),
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
        what="M: contracts, time with them against without (15 % of the whole)",
        case=OURS,
        at_most=1 / 0.85,
        base=f"{OURS}, contracts unchecked",
    ),
    Target(
        what="M: portable definition against hand-written SQL",
        case="one pass in portable expressions",
        at_most=1.4,
        base="one pass in hand-written SQL",
    ),
    Target(
        what="look on day 28, CPU against the same look with nothing kept",
        case="look on day 28",
        at_most=0.2,
        base="look on day 28, nothing kept",
        key="cpu_seconds",
    ),
    Target(
        what="look on day 28, time against day 2 (as many new events)",
        case="look on day 28",
        at_most=1.5,
        base="look on day 2",
    ),
    Target(what="look on day 28: peak memory", case="look on day 28", at_most=400, key="peak_mb"),
    Target(
        what="night of 1,000 experiments over 10 million unit rows",
        case="night of 1,000 experiments, in Dagster",
        at_most=120,
    ),
    Target(
        what="the same: peak memory",
        case="night of 1,000 experiments, in Dagster",
        at_most=2_000,
        key="peak_mb",
    ),
    Target(
        what="20 experiments on the same events, against 1",
        case="night of 20 experiments",
        at_most=5,
        base="night of 1 experiment",
    ),
    Target(
        what="a night in Dagster less the same calls without it",
        case="night of 1 experiment, in Dagster",
        at_most=3,
        base="night of 1 experiment",
        is_difference=True,
    ),
    Target(
        what="impact on 1,096 days with 5 covariates, a week and a predictive interval",
        case=IMPACT,
        at_most=0.3,
    ),
    Target(
        what="synthetic control of 39 states with its 38 placebos, predictor weights given",
        case=PLACEBOS,
        at_most=0.2,
    ),
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

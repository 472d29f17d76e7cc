"""Write the example files of this folder: `python examples/make_examples.py`.

Every file comes from one seed and has a known truth, told in examples/README.md.
"""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
SEED = 20260105
USERS, STREAM, DAYS = 1200, 4000, 240
INTERVENTION = 180  # days after the first


def main() -> None:
    """Write all files."""
    rng = np.random.default_rng(SEED)
    write_user_level(rng)
    write_ratio(rng)
    write_sequential(rng)
    write_timeseries(rng)


def write_user_level(rng: np.random.Generator) -> None:
    """Revenue before and after; the test adds 1.50 to everybody who buys."""
    is_test = _half(rng)
    taste = rng.gamma(2.0, 5.0, USERS)
    before = np.round(taste * rng.gamma(4.0, 0.25, USERS) * (rng.random(USERS) < 0.8), 2)  # noqa: PLR2004
    buys = rng.random(USERS) < 0.85  # noqa: PLR2004
    after = np.round((taste * rng.gamma(4.0, 0.25, USERS) + 1.5 * is_test) * buys, 2)
    columns = ("user_id", "group", "revenue", "revenue_pre")
    _write(
        "example_user_level.csv",
        columns,
        zip(_ids("u", USERS), _arms(is_test), after, before, strict=True),
    )


def write_ratio(rng: np.random.Generator) -> None:
    """Revenue per session: the test adds 0.20 to it, and half a session to everybody."""
    is_test = _half(rng)
    rate = rng.gamma(16.0, 0.125, USERS)
    activity = rng.gamma(3.0, 1.0, USERS)
    before, after = rng.poisson(activity), rng.poisson(activity + 0.5 * is_test)
    paid_before = np.round(before * rate * rng.gamma(9.0, 1 / 9, USERS), 2)
    paid_after = np.round(after * (rate + 0.2 * is_test) * rng.gamma(9.0, 1 / 9, USERS), 2)
    columns = ("user_id", "group", "revenue", "sessions", "revenue_pre", "sessions_pre")
    rows = zip(
        *(_ids("r", USERS), _arms(is_test), paid_after, after, paid_before, before), strict=True
    )
    _write("example_ratio.csv", columns, rows)


def write_sequential(rng: np.random.Generator) -> None:
    """A stream in order of arrival; the test adds 0.15 sd to y and 0.1 to the ratio num/den."""
    is_test = rng.random(STREAM) < 0.5  # noqa: PLR2004
    y = np.round(10 + rng.standard_normal(STREAM) + 0.15 * is_test, 3)
    den = 1 + rng.poisson(3.0, STREAM)
    num = np.round(np.maximum((1 + 0.1 * is_test) * den + rng.standard_normal(STREAM), 0), 2)
    columns = ("user_id", "timestamp", "group", "y", "num", "den")
    minutes = np.cumsum(rng.exponential(10.0, STREAM))
    start = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
    times = [f"{start + dt.timedelta(minutes=float(m)):%Y-%m-%d %H:%M:%S}" for m in minutes]
    rows = zip(*(_ids("s", STREAM), times, _arms(is_test), y, num, den), strict=True)
    _write("sequential.csv", columns, rows)


def write_timeseries(rng: np.random.Generator) -> None:
    """A daily series; from day 180 on y is 12 higher than it would have been."""
    day = np.arange(DAYS)
    week = 8 * np.sin(2 * np.pi * day / 7)
    index = 100 + np.cumsum(rng.normal(0, 0.6, DAYS))
    sessions = np.round(400 + 20 * week / 8 + 3 * (index - 100) + rng.normal(0, 8, DAYS))
    users = np.round(0.55 * sessions + rng.normal(0, 5, DAYS))
    spend = np.round(50 + 5 * rng.standard_normal(DAYS), 2)
    y = 0.3 * sessions + 0.5 * index + week + rng.normal(0, 4, DAYS) + 12 * (day >= INTERVENTION)
    first = dt.date(2025, 1, 1)
    dates = [(first + dt.timedelta(days=int(k))).isoformat() for k in day]
    columns = ("date", "y", "sessions", "active_users", "marketing_spend", "external_index")
    rows = zip(*(dates, np.round(y, 2), sessions, users, spend, np.round(index, 2)), strict=True)
    _write("timeseries.csv", columns, rows)


def _half(rng: np.random.Generator) -> NDArray[np.bool_]:
    return rng.permutation(USERS) < USERS // 2


def _ids(letter: str, n: int) -> list[str]:
    return [f"{letter}{k:05d}" for k in range(n)]


def _arms(is_test: NDArray[np.bool_]) -> list[str]:
    return ["test" if test else "control" for test in is_test]


def _write(name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with (FOLDER / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(
            [f"{value:g}" if isinstance(value, np.generic) else value for value in row]
            for row in rows
        )


if __name__ == "__main__":
    main()

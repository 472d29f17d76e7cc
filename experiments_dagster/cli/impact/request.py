"""The flags of `impact` and `causal-impact`, checked before a file is read."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from pathlib import Path

from experiments_dagster.cli.user_level.checks import check_choice, check_level

METHODS = ("causal_impact_like", "synthetic_control", "did")
FREQUENCIES = ("D", "W")
MISSING_POLICIES = ("raise", "ffill", "bfill", "zero")
AGGREGATIONS = ("mean", "sum")
SPEND_BASES = ("incremental", "total")

MIN_PRE_POINTS = {"D": 30, "W": 20}
SEASON = {"D": 7, "W": None}
DAYS = {"D": 1, "W": 7}
FEWEST_PATHS, MOST_PATHS = 2000, 100_000
# Limits are order statistics of the paths: smaller levels would need very many.
SMALLEST_ALPHA = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpactRequest:
    """The flags by their names; `min_pre_points` None means 30 days or 20 weeks."""

    path: Path
    y: str
    x: tuple[str, ...]
    intervention: dt.date
    date_col: str = "date"
    method: str = "causal_impact_like"
    freq: str = "D"
    missing_policy: str = "raise"
    aggregation: str = "mean"
    bootstrap: int = 200
    n_placebos: int = 0
    margin_rate: float | None = None
    spend_col: str | None = None
    spend_basis: str = "incremental"
    incremental_cost: float | None = None
    run_sensitivity: bool = False
    alpha: float = 0.05
    seed: int = 42
    min_pre_points: int | None = None

    def check(self) -> None:
        """Refuse values outside their range.

        Raises:
            ValueError: The flag, its value and the rule.
        """
        check_choice("--method", self.method, METHODS)
        check_choice("--freq", self.freq, FREQUENCIES)
        check_choice("--missing-policy", self.missing_policy, MISSING_POLICIES)
        check_choice("--aggregation", self.aggregation, AGGREGATIONS)
        check_choice("--spend-basis", self.spend_basis, SPEND_BASES)
        check_level("--alpha", self.alpha)
        if self.alpha < SMALLEST_ALPHA:
            msg = f"--alpha {self.alpha:g}: must be at least {SMALLEST_ALPHA}"
            raise ValueError(msg)
        if self.bootstrap > MOST_PATHS:
            msg = f"the number of bootstrap paths {self.bootstrap}: must be at most {MOST_PATHS}"
            raise ValueError(msg)
        for flag, value, least in (
            ("--seed", self.seed, 0),
            ("--n-placebos", self.n_placebos, 0),
            ("the number of bootstrap paths", self.bootstrap, 1),
            ("--pre-period-min-points", self.floor, 1),
        ):
            if value < least:
                msg = f"{flag} {value}: must be at least {least}"
                raise ValueError(msg)
        if self.y in self.x:
            msg = f"--x {self.y}: is the outcome, which cannot explain itself"
            raise ValueError(msg)
        if len(set(self.x)) < len(self.x):
            msg = f"--x {','.join(self.x)}: names a column twice"
            raise ValueError(msg)
        self._check_money()

    def _check_money(self) -> None:
        rate, cost = self.margin_rate, self.incremental_cost
        if rate is not None and not 0 <= rate <= 1:
            msg = f"--margin-rate {rate:g}: must be from 0 to 1"
            raise ValueError(msg)
        if cost is not None and not (math.isfinite(cost) and cost >= 0):
            msg = f"--incremental-cost {cost:g}: must be finite and not below 0"
            raise ValueError(msg)

    @property
    def floor(self) -> int:
        """Fewest observed periods before the intervention."""
        return MIN_PRE_POINTS[self.freq] if self.min_pre_points is None else self.min_pre_points

    @property
    def n_paths(self) -> int:
        """Paths that are drawn: enough for the tails at `alpha`, and never few."""
        return max(FEWEST_PATHS, self.bootstrap, math.ceil(40 / self.alpha))

    @property
    def has_money(self) -> bool:
        """Whether economics are asked for."""
        given = (self.margin_rate, self.spend_col, self.incremental_cost)
        return any(value is not None for value in given)


def column_names(text: str | None) -> tuple[str, ...]:
    """Column names between commas.

    Examples:
        >>> column_names("sessions, index"), column_names(None)
        (('sessions', 'index'), ())
    """
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def parse_date(flag: str, text: str) -> dt.date:
    """A calendar day.

    Raises:
        ValueError: It is none.
    """
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        msg = f"{flag} {text!r}: is not a date such as 2026-01-31"
        raise ValueError(msg) from None


def check_unused(*, ridge_alpha: float, block_size: int) -> None:
    """Refuse values that never made sense, of flags that no method uses.

    Raises:
        ValueError: A penalty below 0, or a block without a period.
    """
    if not (math.isfinite(ridge_alpha) and ridge_alpha >= 0):
        msg = f"--ridge-alpha {ridge_alpha:g}: must be finite and not below 0"
        raise ValueError(msg)
    if block_size < 1:
        msg = f"--block-size {block_size}: must be at least 1"
        raise ValueError(msg)

"""What a sequential analysis is asked: the flags of the plan and the columns of the stream."""

from __future__ import annotations

from dataclasses import dataclass

from experiments_dagster.cli.user_level.checks import check_choice, check_level
from experiments_dagster.cli.user_level.looks import planned_looks
from experiments_dagster.cli.user_level.rows import ArmColumns
from experiments_dagster.cli.user_level.sequential import (
    Direction,
    Mode,
    SequentialPlan,
    SpendingName,
)

MODES = ("group_sequential", "confidence_sequence")
SPENDINGS = ("obrien_fleming", "pocock")
DIRECTIONS = ("two_sided", "increase", "decrease")
BASELINES = ("first_look", "pre")
LARGEST_ONE_SIDED = 0.5  # from there on a boundary lies on the other side
SMALLEST_TAU, LARGEST_TAU = 1e-100, 1e100  # whose squares fit


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialRequest:
    """The flags that `sequential-mean`, `-ratio` and `-simulate` share."""

    mode: str = "group_sequential"
    alpha: float = 0.05
    spending: str = "obrien_fleming"
    effect_direction: str = "two_sided"
    min_n_per_group: int = 50
    var_floor: float = 1e-12
    cs_tau: float | None = None
    looks: str | None = None
    n_looks: int = 5
    max_n: int = 10_000
    shares: dict[str, float] | None = None

    def schedule(self) -> list[int]:
        """The planned looks."""
        return planned_looks(self.looks, self.n_looks, self.max_n)

    def plan(self) -> SequentialPlan:
        """The plan behind the flags.

        Raises:
            ValueError: A value outside its range, by its flag.
        """
        check_choice("--mode", self.mode, MODES)
        check_choice("--spending", self.spending, SPENDINGS)
        check_choice("--effect-direction", self.effect_direction, DIRECTIONS)
        check_level("--alpha", self.alpha)
        if self.effect_direction != "two_sided" and self.alpha >= LARGEST_ONE_SIDED:
            msg = f"--alpha {self.alpha:g}: must be below {LARGEST_ONE_SIDED:g} for one direction"
            raise ValueError(msg)
        for flag, value, is_fine in (
            ("--min-n-per-group", self.min_n_per_group, self.min_n_per_group >= 0),
            ("--var-floor", self.var_floor, self.var_floor >= 0),
        ):
            if not is_fine:
                msg = f"{flag} {value}: must not be negative"
                raise ValueError(msg)
        if self.cs_tau is not None and not SMALLEST_TAU <= self.cs_tau <= LARGEST_TAU:
            msg = f"--cs-tau {self.cs_tau:g}: must be from {SMALLEST_TAU:g} to {LARGEST_TAU:g}"
            raise ValueError(msg)
        mode: Mode = "group_sequential" if self.mode == MODES[0] else "confidence_sequence"
        spending: SpendingName = "pocock" if self.spending == "pocock" else "obrien_fleming"
        direction: Direction = "two_sided"
        if self.effect_direction != "two_sided":
            direction = "increase" if self.effect_direction == "increase" else "decrease"
        return SequentialPlan(
            planned_n=self.schedule()[-1],
            mode=mode,
            alpha=self.alpha,
            direction=direction,
            spending=spending,
            cs_tau=self.cs_tau,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamColumns:
    """The columns of a stream: an outcome `y`, or a ratio of `num` and `den`."""

    arms: ArmColumns
    timestamp: str | None = None
    y: str | None = None
    num: str | None = None
    den: str | None = None
    num_pre: str | None = None
    den_pre: str | None = None
    baseline_mode: str = "first_look"

    @property
    def metric(self) -> str:
        """Its name in titles."""
        return self.y or f"{self.num}/{self.den}"

    def named(self) -> dict[str, str]:
        """The outcome columns by flag."""
        flags = {"--y": self.y, "--num": self.num, "--den": self.den}
        return {flag: column for flag, column in flags.items() if column is not None}

"""What one period of a bandit records: plain frozen data, written once."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from experiments_dagster.stats.bayesian.posteriors import BetaPosterior, StudentPosterior

FORMAT: Final = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BetaRecord(_Record):
    """Beta(a, b) of a rate."""

    family: Literal["beta"] = "beta"
    a: float
    b: float


class StudentRecord(_Record):
    """mean + scale · t with `df` degrees of freedom."""

    family: Literal["student"] = "student"
    mean: float
    scale: float
    df: float


PosteriorRecord = Annotated[BetaRecord | StudentRecord, Field(discriminator="family")]


def posterior_record(posterior: BetaPosterior | StudentPosterior) -> BetaRecord | StudentRecord:
    """The parameters of a posterior."""
    if isinstance(posterior, BetaPosterior):
        return BetaRecord(a=posterior.a, b=posterior.b)
    return StudentRecord(mean=posterior.mean, scale=posterior.scale, df=posterior.df)


class ArmShare(_Record):
    """One arm of one period.

    `n`, `mean` and `cross` (Σ(y − ȳ)²) are the rewards behind the posterior, `mean` None without
    units. `share` is the probability with which each decision of the period draws the arm;
    `probability_best` is what it would be without the floor, and `expected_loss` what choosing
    this arm for good would cost per unit, in units of the reward.
    """

    arm: str
    n: int
    mean: float | None
    cross: float
    posterior: PosteriorRecord
    probability_best: float
    expected_loss: float
    share: float


class Period(_Record):
    """The shares of one period, and how to compute them again.

    They stay in force until the next recorded period begins. `as_of` is up to when exposures and
    rewards were looked at, `cutoff` the last landed batch that counts, `inputs` the SHA-256 of
    each landed file behind the numbers. `seed` fixes which unit draws which arm: `experiments
    assign` with the bandit as experiment, the seed as salt and these shares says which.

    `n_open` counts units whose reward window had not closed, `n_crossed` units that met a second
    arm (they count under their first). `previous` is the SHA-256 of the record before this one,
    of the frozen plan for the first.
    """

    format: Literal[1] = FORMAT
    bandit: str
    plan_hash: str
    code_version: str
    period: int
    starts_on: str
    as_of: str
    cutoff: int
    seed: int
    previous: str
    inputs: dict[str, str]
    n_open: int
    n_crossed: int
    arms: tuple[ArmShare, ...]

    @property
    def shares(self) -> dict[str, float]:
        """Share by arm, in the order that shares out the buckets."""
        return {row.arm: row.share for row in self.arms}

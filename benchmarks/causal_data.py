"""The series and the panel that every causal program analyses, from seeds; needs numpy only.

The shapes are those of three years of days, and of the study of tobacco control in California: 39
states, 31 years, 7 predictors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SEASON_DAYS = 7
PRE_DAYS, POST_DAYS = 1_006, 90
COVARIATES = 5
STATES, YEARS, PRE_YEARS = 39, 31, 19
CHARACTERISTICS = 3
LAGGED_YEARS = (5, 8, 13, 18)


@dataclass(frozen=True)
class Series:
    """An outcome and covariates per day.

    Attributes:
        observed: Shape (days,).
        covariates: Shape (days, 5); the intervention does not touch them.
    """

    observed: FloatArray
    covariates: FloatArray


@dataclass(frozen=True)
class Panel:
    """Outcomes and characteristics of states per year; the first state is treated.

    Attributes:
        outcomes: Shape (years, states).
        characteristics: Shape (3, years, states).
    """

    outcomes: FloatArray
    characteristics: FloatArray


def make_series() -> Series:
    """An effect of +4 on a level of 100, a weekly season, covariates, independent noise.

    The programs differ in how they let noise hang together over time. Where it does not, all of
    their models hold, and what they estimate can be compared.
    """
    rng = np.random.default_rng(11)
    days = PRE_DAYS + POST_DAYS
    covariates = rng.normal(size=(days, COVARIATES))
    for day in range(1, days):
        covariates[day] += 0.9 * covariates[day - 1]
    weekdays = np.array([-4.0, -2.0, 0.0, 1.0, 2.0, 5.0, -2.0])
    coefficients = np.array([3.0, 2.0, 1.0, 0.5, 0.0])
    observed = 100 + weekdays[np.arange(days) % SEASON_DAYS] + covariates @ coefficients
    observed += rng.normal(scale=4.0, size=days)
    observed[PRE_DAYS:] += 4.0
    return Series(observed, covariates)


def make_panel() -> Panel:
    """States on two common factors, the first amid the others, with an effect of -15 on it."""
    rng = np.random.default_rng(12)
    years = np.arange(YEARS)[:, None]
    factors = np.column_stack([120 - 1.5 * years, 8 * np.sin(years / 4) + 0.5 * years])
    loads = rng.uniform(0.5, 1.5, size=(2, STATES))
    loads[:, 0] = loads[:, 1:].mean(axis=1)
    outcomes = factors @ loads + rng.normal(scale=2.0, size=(YEARS, STATES))
    outcomes[PRE_YEARS:, 0] -= 15.0
    mixes = rng.uniform(-1, 1, size=(CHARACTERISTICS, 2))
    characteristics = 10 + np.einsum("cf,fs->cs", mixes, loads)[:, None, :]
    characteristics = characteristics + rng.normal(scale=0.1, size=(CHARACTERISTICS, YEARS, STATES))
    return Panel(outcomes, characteristics)

"""Units of studies: read from the reference data, or drawn with a known effect."""

from pathlib import Path

import numpy as np
from scipy.special import expit

from experiments_dagster.config.study_data import UnitsFile
from experiments_dagster.frames.study_tables import read_units_file
from experiments_dagster.interventions.study_data import Units, units_of

SHARED = Path(__file__).parents[3] / "shared" / "data"


def read_units(path, **columns):
    """The units of a file as a configured intervention reads them."""
    spec = UnitsFile(file=str(path), **columns)
    rows, left_out = read_units_file(path, spec)
    return units_of(rows, outcome_name=spec.outcome, n_left_out=left_out)


def make_units(outcome, *, treated=None, running=None, covariates=None, placebos=None, names=None):
    """Units from arrays; covariates by name."""
    columns = covariates or {}
    n = len(outcome)
    return Units(
        names=names or tuple(f"unit {k:06d}" for k in range(n)),
        outcome=np.asarray(outcome, dtype=float),
        treated=treated,
        running=running,
        covariates=np.column_stack([*columns.values()]) if columns else np.empty((n, 0)),
        covariate_names=tuple(columns),
        placebo_outcomes=placebos or {},
    )


def targeted_units(
    *, n=1500, p=3, effect=1.0, confounding=0.4, hidden=0.0, n_placebos=1, seed=1, names=None
):
    """y = effect·t + Σx + hidden·u + noise, with logit P(t) = confounding·Σx + hidden·u.

    Placebo outcomes depend on x and on u, which nobody recorded, but not on the treatment.
    """
    rng = np.random.default_rng(seed)
    x, u = rng.standard_normal((n, p)), rng.standard_normal(n)
    treated = rng.random(n) < expit(confounding * x.sum(axis=1) + hidden * u)
    y = effect * treated + x.sum(axis=1) + hidden * u + rng.standard_normal(n)
    placebos = {
        f"before_{k}": x[:, 0] + hidden * u + rng.standard_normal(n) for k in range(n_placebos)
    }
    columns = {f"x{k}": x[:, k] for k in range(p)}
    return make_units(y, treated=treated, covariates=columns, placebos=placebos, names=names)


def units_at_a_cutoff(
    *, n=2000, jump=1.0, sorting=0.0, covariate_jump=0.0, take_up=(0.0, 1.0), p=2, seed=1
):
    """y = x + x²/2 + jump·d + noise, x uniform on (−1, 1), d drawn by the take-up of each side.

    `sorting` is the share of units just below the cutoff that moved to the other side of it.
    """
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, n)
    has_moved = (x > -0.15) & (x < 0) & (rng.random(n) < sorting)
    x = np.where(has_moved, -x, x)
    d = rng.random(n) < np.where(x >= 0, take_up[1], take_up[0])
    y = x + x**2 / 2 + jump * d + 0.5 * rng.standard_normal(n)
    columns = {f"c{k}": x + rng.standard_normal(n) for k in range(p)}
    if p:
        columns["c0"] = columns["c0"] + covariate_jump * (x >= 0)
    placebos = {"before": x + rng.standard_normal(n)}
    is_sharp = take_up == (0.0, 1.0)
    return make_units(
        y, treated=None if is_sharp else d, running=x, covariates=columns, placebos=placebos
    )

"""Panels for the tests of panel designs: units by periods with a known effect."""

import json
from xml.etree import ElementTree as ET

import numpy as np

from experiments_dagster.interventions.study import study_document
from experiments_dagster.interventions.study_data import Panel


def panel_of_table(y, first, *, covariates=None, has_units=True):
    """A Panel from outcomes (N, T), NaN where there is no row, and first treated periods (N,)."""
    n, n_periods = y.shape
    unit, period = np.divmod(np.arange(n * n_periods), n_periods)
    kept = ~np.isnan(y.ravel())
    named = {
        name: np.repeat(values, n_periods)[kept] for name, values in (covariates or {}).items()
    }
    return Panel(
        outcome=y.ravel()[kept],
        unit=unit[kept],
        period=period[kept],
        units=tuple(f"u{i:04d}" for i in range(n)),
        labels=tuple(str(2000 + t) for t in range(n_periods)),
        first_treated=np.asarray(first, dtype=np.float64),
        covariates=named,
        has_units=has_units,
        outcome_name="spend",
    )


def table(n_treated=30, n_control=40, *, n_periods=8, start=5, effect=0.0, slope=0.0, seed=0):
    """Outcomes with unit and period effects, and first treated periods; noise of sd 1."""
    rng = np.random.default_rng(seed)
    n = n_treated + n_control
    y = 10 + rng.normal(size=(n, 1)) + rng.normal(size=n_periods) + rng.normal(size=(n, n_periods))
    treated = np.arange(n) < n_treated
    times = np.arange(n_periods)
    y[treated] += slope * times + effect * (times >= start)
    return y, np.where(treated, start, np.inf)


def checks(study):
    """Outcome of each refutation that ran: True, or the severity of its failure."""
    return {check.name: check.passed or check.severity for check in study.refutations}


def skipped(study):
    return {item.name: item.reason for item in study.skipped}


def rows(study, name):
    """Rows of a table as dictionaries."""
    found = next(item for item in study.tables if item.name == name)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def assert_presentable(study):
    """Strict JSON, and pictures that are XML at both widths."""
    json.dumps(study_document(study), allow_nan=False)
    for picture in study.pictures:
        for width in (780, 400):
            assert ET.fromstring(picture.draw(width)).tag.endswith("svg")

"""Looks by sums over chunks of units against the estimators on all units at once."""

import dataclasses
import datetime as dt

import numpy as np
import polars as pl
import pytest
from factories import EXPERIMENT, make_project, utc

from experiments_dagster.frames import unit_frames
from experiments_dagster.frames.unit_frames import FrameInfo, Frames
from experiments_dagster.looks.context import _level_of_units
from experiments_dagster.looks.contrasts import compare_arm, compare_sums, metric_rows
from experiments_dagster.looks.health import health_checks
from experiments_dagster.looks.sums import Part
from experiments_dagster.looks.unit_sums import sums_of
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.covariates import text_labels

# Two summation orders of some thousand terms: far above rounding, far below any digit shown.
SAME = 1e-9

ARMS = """variants: {control: 0.4, bold: 0.3, plain: 0.3}"""


def an_experiment(folder, *, estimator="{kind: cuped, covariate_days: 14}", arms=ARMS):
    text = EXPERIMENT.replace("variants: {control: 0.5, treatment: 0.5}", arms)
    text = text.replace("estimator: {kind: cuped, covariate_days: 14}", f"estimator: {estimator}")
    (experiment,) = make_project(folder, trial=text).experiments.values()
    return experiment.model_copy(update={"segments": ("device",)})


def some_frames(experiment, *, n=3000, seed=7, days=20):
    rng = np.random.default_rng(seed)
    before = rng.gamma(0.5, 20.0, n) * (rng.random(n) < 0.8)
    spend = 0.6 * before + rng.gamma(1.0, 8.0, n) + rng.lognormal(0, 1.5, n)
    is_open = rng.random(n) < 0.1
    columns = {
        "unit": [f"u{k:05d}" for k in range(n)],
        "arm": rng.choice(list(experiment.variants), n),
        "exposed_at": [utc(2026, 3, 2) + dt.timedelta(hours=24 * days * k / n) for k in range(n)],
        "is_pre_missing": before == 0,
        "segment_device": pl.Series(
            rng.choice(["app", "desktop", None], n, p=[0.5, 0.45, 0.05]).tolist(), dtype=pl.String
        ),
    }
    for name, values in {
        "spend": spend,
        "orders": rng.poisson(1 + before / 20).astype(float),
        "bought": (rng.random(n) < 0.3).astype(float),
        "back": (rng.random(n) < 0.5).astype(float),
        "basket_numerator": spend,
        "basket_denominator": rng.poisson(2.0, n).astype(float),
    }.items():
        columns[name] = np.where(is_open, np.nan, values)
        columns[f"pre_{name}"] = before * rng.integers(1, 3) if name != "back" else before * 0 + 1
    table = pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))
    counts = dict(table.group_by("arm").len().iter_rows())
    info = FrameInfo(
        experiment="trial", cutoff=1, as_of=utc(2026, 4, 1).isoformat(),
        horizon=utc(2026, 4, 1).isoformat(), plan_hash="0" * 12, sha256={}, rows=n,
        n_exposed={arm: counts.get(arm, 0) for arm in experiment.variants}, n_multi_arm={},
        n_rows={}, n_immature={}, inputs={},
    )  # fmt: skip
    parts = [name for name in table.columns if "basket" in name]
    identity = ["unit", "arm", "exposed_at", "is_pre_missing", "segment_device"]
    return Frames(info=info, user=table.drop(parts), ratio=table.select(*identity, *parts))


def assert_equal(found, expected):
    for one, other in (
        (found.plain, expected.plain),
        (found.deciding, expected.deciding),
    ):
        for kind in ("difference", "relative"):
            a, b = getattr(one, kind), getattr(other, kind)
            assert (a is None) == (b is None)
            if a is None:
                assert one.relative_reason == other.relative_reason
                continue
            for field in dataclasses.fields(a):
                x, y = getattr(a, field.name), getattr(b, field.name)
                assert x == (pytest.approx(y, rel=SAME, abs=1e-12) if isinstance(y, float) else y)
    deciding = expected.deciding.difference
    skewness = float((expected.scores**3).sum()) / deciding.std_error**3
    assert found.skewness == pytest.approx(skewness, rel=SAME, abs=1e-12)
    if expected.adjusted is not None:
        assert found.adjusted.dropped_covariates == expected.adjusted.dropped_covariates
        for name in ("variance_reduction", "correlation"):
            known = getattr(expected.adjusted, name)
            wanted = None if known is None else pytest.approx(known, rel=SAME, abs=1e-12)
            assert getattr(found.adjusted, name) == wanted


@pytest.mark.parametrize("chunk", [7, 400, 65_536])
@pytest.mark.parametrize("cap", [None, 40.0])
@pytest.mark.parametrize("estimator", ["{kind: cuped, covariate_days: 14}", "{kind: unadjusted}"])
@pytest.mark.parametrize("arms", [ARMS, "variants: {control: 0.5, bold: 0.5}"])
def test_every_contrast_is_that_of_the_units(tmp_path, monkeypatch, arms, estimator, cap, chunk):
    monkeypatch.setattr(unit_frames, "CHUNK_UNITS", chunk)
    experiment = an_experiment(tmp_path, estimator=estimator, arms=arms)
    assert experiment.is_additive
    frames = some_frames(experiment)
    sums = sums_of(experiment, frames, cap=cap)
    for metric in experiment.metrics:
        own = cap if metric is experiment.primary else None
        rows = metric_rows(metric, frames, cap=own)
        for arm in experiment.treatments:
            found = compare_sums(experiment, sums, metric, arm)
            assert_equal(found, compare_arm(experiment, rows, arm))


def test_levels_and_the_rest_are_those_of_the_units(tmp_path):
    experiment = an_experiment(tmp_path)
    frames = some_frames(experiment)
    sums = sums_of(experiment, frames, cap=None)
    rows = metric_rows(experiment.primary, frames, cap=None)
    labels = pl.Series("_level", text_labels(rows.frame["segment_device"].to_list()))
    labelled = dataclasses.replace(rows, frame=rows.frame.with_columns(labels))
    assert sums.level_sizes(experiment, "device") == dict(labels.value_counts().iter_rows())
    for level in ("app", "desktop"):
        for arm in experiment.treatments:
            for inside in (True, False):
                part = Part("device", level, inside)
                found = compare_sums(experiment, sums, experiment.primary, arm, part)
                expected = _level_of_units(experiment, labelled, arm, level, inside=inside)
                assert found.deciding.difference.estimate == pytest.approx(
                    expected.difference.estimate, rel=SAME
                )
                assert found.deciding.difference.std_error == pytest.approx(
                    expected.difference.std_error, rel=SAME
                )


def test_health_by_counts_is_health_by_units(tmp_path):
    experiment = an_experiment(tmp_path)
    frames = some_frames(experiment)
    by_units = health_checks(experiment, frames, [], is_planned_end=True)
    counts = sums_of(experiment, frames, cap=None).counts
    assert health_checks(experiment, frames, [], is_planned_end=True, counts=counts) == by_units


def answer_of(compare, *arguments):
    try:
        return compare(*arguments)
    except EstimationError as error:
        return error.code


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
def test_few_units_give_the_same_answer_or_the_same_reason(tmp_path, n):
    experiment = an_experiment(tmp_path, arms="variants: {control: 0.5, bold: 0.5}")
    for seed in range(6):
        frames = some_frames(experiment, n=n, seed=seed, days=3)
        sums = sums_of(experiment, frames, cap=None)
        for metric in experiment.metrics:
            rows = metric_rows(metric, frames, cap=None)
            answers = [
                answer_of(compare_sums, experiment, sums, metric, "bold"),
                answer_of(compare_arm, experiment, rows, "bold"),
            ]
            if isinstance(answers[1], str):
                assert answers[0] == answers[1]
            else:
                assert_equal(*answers)


def test_a_unit_that_stands_alone_with_its_covariate_does_not_break_the_sums(tmp_path):
    experiment = an_experiment(tmp_path, arms="variants: {control: 0.5, bold: 0.5}")
    frames = some_frames(experiment, n=400)
    lonely = pl.int_range(pl.len()) == 11
    user = frames.user.with_columns(is_pre_missing=lonely, pre_spend=pl.lit(3.0))
    frames = Frames(info=frames.info, user=user, ratio=frames.ratio)
    found = compare_sums(
        experiment, sums_of(experiment, frames, cap=None), experiment.primary, "bold"
    )
    expected = compare_arm(experiment, metric_rows(experiment.primary, frames, cap=None), "bold")
    assert_equal(found, expected)
    assert found.adjusted.dropped_covariates == ("pre_spend", "is_pre_missing")

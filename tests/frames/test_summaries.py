"""Summary frames: which landed row counts, what its moments are, and what is refused."""

import datetime as dt
import json
import math

import dagster as dg
import numpy as np
import polars as pl
import pytest
from factories import land_now, manifest_of, utc, write_configs

from experiments_dagster.assets.frames import unit_frames
from experiments_dagster.config.project import load_project
from experiments_dagster.contracts.summaries import validate_summary_frame
from experiments_dagster.frames.summaries import build_summaries, read_current_summaries
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.storage.errors import ContractError, DataDamagedError

PLATFORM = """
    schema_version: 1
    storage: store
    sources:
      moments:
        kind: summaries
        path: incoming/moments/*
        columns:
          {experiment: experiment, variant: variant, metric: metric, timestamp: at, n: n,
           mean: mean, variance: variance, denominator_mean: d_mean, denominator_variance: d_var,
           covariance: cov}
"""
METRICS = """
    schema_version: 1
    metrics:
      spend: {kind: summary, cohorts: complete, name: net revenue}
      basket: {kind: summary, cohorts: complete, value: ratio}
      orders_of_basket: {kind: summary, cohorts: complete, name: basket}
"""
EXPERIMENT = """
    schema_version: 1
    owner: team:growth
    hypothesis: {primary: "More spend"}
    variants: {control: 0.5, treatment: 0.5}
    salt: a-salt-of-its-own
    exposure: {experiment: exp-17}
    window: {start: 2026-03-02, end: 2026-03-30}
    metrics:
      primary: {metric: spend}
      secondary: [basket, orders_of_basket]
    plan:
      mde: 0.1
      estimator: {kind: unadjusted}
      looks: {schedule: weekly, design: {kind: group_sequential, planned: 4}}
"""
SCHEMA = {
    "experiment": pl.String,
    "variant": pl.String,
    "metric": pl.String,
    "at": pl.Datetime("us", "UTC"),
    **dict.fromkeys(("n", "mean", "variance", "d_mean", "d_var", "cov"), pl.Float64),
}
WEEK_1, WEEK_2 = utc(2026, 3, 9), utc(2026, 3, 16)
LATE = utc(2026, 5, 1)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "incoming" / "moments").mkdir(parents=True)
    write_configs(tmp_path, platform=PLATFORM, metrics=METRICS, trial=EXPERIMENT)
    return load_project(tmp_path)


def row(variant, *, at=WEEK_1, n=10.0, mean=2.0, variance=4.0, metric="net revenue", **others):
    names = {"experiment": "exp-17", "variant": variant, "metric": metric, "at": at}
    return names | {"n": n, "mean": mean, "variance": variance} | others


def ratio_row(variant, **others):
    moments = {"metric": "basket", "d_mean": 3.0, "d_var": 1.0, "cov": 1.5}
    return row(variant, **(moments | others))


def both(**others):
    return [row(arm, **others) for arm in ("control", "treatment")]


def land_rows(project, name, rows):
    path = project.folder / "incoming" / "moments" / f"{name}.parquet"
    pl.DataFrame(rows, schema=SCHEMA).write_parquet(path)
    return land_now(project)


def summaries_of(project, *, as_of=LATE, cutoff=None, publish=True):
    manifest = manifest_of(project)
    return build_summaries(
        project,
        manifest,
        project.experiments["trial"],
        cutoff=manifest.head if cutoff is None else cutoff,
        as_of=as_of,
        publish=publish,
    )


def means(summaries, metric="spend"):
    return {
        arm: moments.mean(moments.columns[0]) if moments.n else None
        for (name, arm), moments in summaries.moments.items()
        if name == metric
    }


def test_moments_have_the_rows_numbers_and_centred_products(project):
    land_rows(project, "a", [*both(), ratio_row("control"), ratio_row("treatment", n=1.0)])
    found = summaries_of(project).moments
    spend = found["spend", "control"]
    assert (spend.n, spend.columns) == (10, ("y",))
    assert (spend.mean("y"), spend.variance("y"), spend.cross[0, 0]) == (2.0, 4.0, 36.0)
    basket = found["basket", "control"]
    assert basket.columns == ("numerator", "denominator")
    assert basket.covariance("numerator", "denominator") == 1.5
    np.testing.assert_array_equal(basket.cross, np.array([[4.0, 1.5], [1.5, 1.0]]) * 9)
    single = found["basket", "treatment"]
    assert (single.n, single.cross.any()) == (1, False)
    # The same rows under a second name, read as a plain mean.
    assert found["orders_of_basket", "control"].columns == ("y",)


def test_moments_of_units_survive_the_round_trip(project):
    rng = np.random.default_rng(5)
    numerator, denominator = rng.gamma(2.0, 1e4, 500), rng.poisson(3.0, 500).astype(float)
    covariance = np.cov(numerator, denominator)
    rows = [
        ratio_row(
            arm,
            n=500.0,
            mean=numerator.mean(),
            variance=covariance[0, 0],
            d_mean=denominator.mean(),
            d_var=covariance[1, 1],
            cov=covariance[0, 1],
        )
        for arm in ("control", "treatment")
    ]
    land_rows(project, "a", rows)
    found = summaries_of(project).moments["basket", "control"]
    wanted = ArmMoments.from_arrays(numerator=numerator, denominator=denominator)
    np.testing.assert_allclose(found.means, wanted.means, rtol=1e-14)
    np.testing.assert_allclose(found.cross, wanted.cross, rtol=1e-12)


def test_the_newest_row_up_to_the_look_counts(project):
    rows = [*both(at=WEEK_2, mean=3.0, n=20.0), *both(), *both(at=utc(2026, 3, 23), mean=9.0)]
    land_rows(project, "a", rows)
    assert means(summaries_of(project, as_of=WEEK_2)) == {"control": 3.0, "treatment": 3.0}
    just_before = WEEK_2 - dt.timedelta(microseconds=1)
    assert means(summaries_of(project, as_of=just_before)) == {"control": 2.0, "treatment": 2.0}


def test_a_restated_row_counts_from_its_batch_on(project):
    land_rows(project, "b", [*both(), *both(at=WEEK_2)])
    land_rows(project, "a", [row("treatment", at=WEEK_2, mean=7.0), row("control", mean=8.0)])
    assert means(summaries_of(project)) == {"control": 2.0, "treatment": 7.0}
    assert means(summaries_of(project, cutoff=1)) == {"control": 2.0, "treatment": 2.0}
    assert means(summaries_of(project, as_of=WEEK_1)) == {"control": 8.0, "treatment": 2.0}


def test_of_two_rows_for_one_time_in_one_batch_the_last_counts(project):
    land_rows(project, "a", [*both(mean=5.0), *both(mean=6.0)])
    assert means(summaries_of(project)) == {"control": 6.0, "treatment": 6.0}


def test_an_arm_or_metric_without_rows_is_empty_and_not_an_error(project):
    land_rows(project, "a", [row("control")])
    found = summaries_of(project)
    assert found.moments["spend", "treatment"].n == 0
    assert found.moments["basket", "control"].columns == ("numerator", "denominator")
    assert found.info.n_exposed == {"control": 10, "treatment": 0}
    assert found.info.rows == 1


def test_rows_of_before_the_start_or_of_others_do_not_count(project):
    other = row("somebody") | {"experiment": "exp-18"}
    land_rows(project, "a", [*both(at=utc(2026, 3, 1)), other, row("odd", metric="unused")])
    found = summaries_of(project)
    assert all(moments.n == 0 for moments in found.moments.values())
    assert found.info.horizon == "2026-03-02T00:00:00+00:00"


def test_what_the_frame_says_of_itself(project):
    land_rows(project, "a", [*both(), ratio_row("control", at=WEEK_2, n=8.0)])
    manifest = manifest_of(project)
    info = summaries_of(project, as_of=LATE).info
    assert (info.n_exposed, info.n_rows) == ({"control": 10, "treatment": 10},) * 2
    assert info.n_multi_arm == {"control": 0, "treatment": 0}
    assert info.n_immature == {"spend": 0, "basket": 0, "orders_of_basket": 0}
    assert (info.cutoff, info.rows) == (1, 4)
    assert (info.horizon, info.as_of) == (WEEK_2.isoformat(), LATE.isoformat())
    ((_, table),) = manifest.tables("moments", up_to=1)
    assert info.inputs == {table.path: table.sha256}
    assert (info.user_frame, info.ratio_frame) == (None, None)
    assert list(info.sha256) == ["summary_frame"]


def test_units_are_counted_on_one_metric_for_all_arms(project):
    rows = [row("control"), row("treatment", n=12.0), ratio_row("control", n=21.0)]
    land_rows(project, "a", [*rows, ratio_row("treatment", n=5.0)])
    assert summaries_of(project).info.n_exposed == {"control": 21, "treatment": 5}


def test_the_published_frame_reads_back_and_a_reproduction_publishes_nothing(project):
    land_rows(project, "a", [*both(), ratio_row("control")])
    summaries_of(project, publish=False)
    manifest, trial = manifest_of(project), project.experiments["trial"]
    with pytest.raises(FileNotFoundError):
        read_current_summaries(manifest.layout, trial)
    built = summaries_of(project)
    again = read_current_summaries(manifest.layout, trial)
    assert again.info == built.info
    for key, moments in built.moments.items():
        assert again.moments[key].n == moments.n
        np.testing.assert_array_equal(again.moments[key].cross, moments.cross)
    pointer = manifest.layout.frame("summary_frame", "trial") / "current.json"
    assert json.loads(pointer.read_bytes())["summary_frame"] == built.info.summary_frame


def test_a_rebuild_gives_the_same_bytes(project):
    land_rows(project, "a", [*both(), ratio_row("control")])
    assert summaries_of(project).info == summaries_of(project, publish=False).info


def test_without_anything_landed_there_is_no_frame(project):
    with pytest.raises(ContractError, match="no summaries have landed"):
        summaries_of(project)


def test_an_arm_that_is_not_configured_is_refused(project):
    land_rows(project, "a", [*both(), row("purple")])
    with pytest.raises(ContractError, match="'purple' is not configured"):
        summaries_of(project)


def test_a_ratio_without_its_denominator_promotes_nothing(project):
    land_rows(project, "a", [*both(), row("control", metric="basket")])
    with pytest.raises(ContractError, match="moments_complete"):
        summaries_of(project)
    folder = manifest_of(project).layout.frame("summary_frame", "trial")
    assert not folder.exists()


@pytest.mark.parametrize(("hours", "is_fine"), [(0, True), (23, True), (24, False), (168, False)])
def test_arms_of_one_metric_must_speak_of_one_time(project, hours, is_fine):
    at = WEEK_1 + dt.timedelta(hours=hours)
    land_rows(project, "a", [row("control"), row("treatment", at=at)])
    if is_fine:
        assert summaries_of(project).info.horizon == at.isoformat()
        return
    with pytest.raises(ContractError, match="arms_less_than_a_day_apart"):
        summaries_of(project)


def test_a_damaged_landed_file_is_named(project):
    land_rows(project, "a", both())
    manifest = manifest_of(project)
    ((_, table),) = manifest.tables("moments", up_to=1)
    (manifest.layout.root / table.path).write_bytes(b"cut")
    with pytest.raises(DataDamagedError):
        summaries_of(project)


FRAME = pl.DataFrame(
    {
        "metric": ["spend", "spend"],
        "arm": ["control", "treatment"],
        "taken_at": [WEEK_1, WEEK_1],
        "n": [10, 0],
        "mean": [1.0, None],
        "variance": [2.0, None],
        "denominator_mean": [None, None],
        "denominator_variance": [None, None],
        "covariance": [None, None],
    },
    schema_overrides={
        "taken_at": pl.Datetime("us", "UTC"),
        **dict.fromkeys(("denominator_mean", "denominator_variance", "covariance"), pl.Float64),
    },
)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"metric": "profit"}, "known_metric"),
        ({"arm": "purple"}, "known_arm"),
        ({"arm": "treatment"}, "one_row_per_metric_and_arm"),
        ({"mean": math.inf}, "moments_finite"),
        ({"variance": math.nan}, "moments_finite"),
        ({"n": -1}, "n_not_negative"),
        ({"variance": -1.0}, "variance_not_negative"),
        ({"mean": None}, "moments_complete"),
        ({"variance": None}, "moments_complete"),
        ({"taken_at": WEEK_1 - dt.timedelta(days=1)}, "arms_less_than_a_day_apart"),
        ({"taken_at": None}, "taken_at"),
    ],
)
def test_the_contract_names_the_broken_rule(project, change, rule):
    trial = project.experiments["trial"]
    validate_summary_frame(FRAME, trial)
    first = pl.int_range(pl.len()) == 0
    broken = FRAME.with_columns(
        pl.when(first).then(pl.lit(value, FRAME.schema[name])).otherwise(name).alias(name)
        for name, value in change.items()
    )
    with pytest.raises(ContractError) as caught:
        validate_summary_frame(broken, trial)
    assert any(rule in case for case in caught.value.cases)
    assert "purple" not in str(caught.value)


def materialize_frames(project):
    """Events of the frame assets for the trial: asset to metadata, check to passed."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("experiment", ["trial"])
        result = dg.materialize(
            [unit_frames],
            instance=instance,
            partition_key="trial",
            resources={"experiments": ExperimentsProject(folder=str(project.folder))},
            run_config={"ops": {"unit_frames": {"config": {"as_of": "2026-05-01"}}}},
            raise_on_error=False,
        )
    published = {
        event.asset_key.path[-1]: {name: value.value for name, value in event.metadata.items()}
        for event in result.asset_materializations_for_node("unit_frames")
    }
    checks = {item.check_name: item for item in result.get_asset_check_evaluations()}
    return published, checks


def test_both_frame_assets_stand_for_the_summary_frame_and_say_so(project):
    land_rows(project, "a", both())
    published, checks = materialize_frames(project)
    assert published.keys() == {"user_frame", "ratio_frame"}
    current = read_current_summaries(manifest_of(project).layout, project.experiments["trial"])
    for metadata in published.values():
        assert metadata["file"] == current.info.summary_frame
        assert (metadata["moments"], metadata["exposed_control"]) == (2, 10)
        assert "moments arrive aggregated" in metadata["input"]
        assert "units" not in metadata
    assert all(check.passed for check in checks.values())


def test_a_broken_summary_frame_fails_both_checks_and_publishes_nothing(project):
    land_rows(project, "a", [*both(), row("control", metric="basket")])
    published, checks = materialize_frames(project)
    assert published == {}
    assert not any(check.passed for check in checks.values())
    assert all("moments_complete: 1 rows" in check.description for check in checks.values())

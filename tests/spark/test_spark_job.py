"""The submitted job, run for real by Dagster Pipes, answers with the sums that DuckDB gives."""

import os
import shutil
import sys
from pathlib import Path

import dagster as dg
import narwhals as nw
import pytest
from factories import REPOSITORY, manifest_of
from rich_factory import rich_project
from sums_factory import TWO_ARMS, assert_equal_sums

from experiments_dagster.frames import spark
from experiments_dagster.looks.calendar import start_of_day
from experiments_dagster.looks.portable_sums import DuckStore
from experiments_dagster.looks.remote import answer, request_sums
from experiments_dagster.resources.spark_job import SparkJob
from experiments_dagster.storage.duck import connect

pytestmark = [
    pytest.mark.spark,
    pytest.mark.skipif(spark.missing() is not None, reason=spark.missing() or ""),
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
]
JOB = str(REPOSITORY / "deploy" / "spark" / "job.py")
SUBMIT = Path(sys.executable).with_name("spark-submit")
COMMANDS = {
    "python": [sys.executable, JOB],
    "spark-submit": [str(SUBMIT), "--master", "local[2]", "--conf", "spark.ui.enabled=false",
                     "--conf", "spark.sql.shuffle.partitions=4",
                     "--conf", "spark.driver.bindAddress=127.0.0.1",
                     "--conf", "spark.driver.host=127.0.0.1", JOB],
}  # fmt: skip


def run(command, request):
    """The answer that an asset got from the job, and the run's log lines."""
    answers = []

    @dg.asset
    def sums(context: dg.AssetExecutionContext, spark_job: SparkJob) -> dg.MaterializeResult:
        answers.append(spark_job.sums(context, request))
        return dg.MaterializeResult(metadata={"units": sum(answers[0].n_exposed.values())})

    here = {"PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(REPOSITORY)}
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [sums],
            instance=instance,
            resources={"spark_job": SparkJob(command=command, env={**os.environ, **here})},
            raise_on_error=False,
        )
        lines = [record.user_message for record in instance.all_logs(result.run_id)]
    return result, answers, lines


def request_of(folder, **options):
    project = rich_project(folder, text=TWO_ARMS, n_users=800)
    trial = project.experiments["trial"]
    as_of = start_of_day(trial, trial.planned_looks()[2])
    manifest = manifest_of(project)
    return project, request_sums(
        manifest, trial, cutoff=manifest.head, as_of=as_of, cap=40.0, **options
    )


@pytest.mark.parametrize("way", sorted(COMMANDS))
def test_the_job_answers_with_the_sums_of_duckdb(tmp_path, way):
    if shutil.which(COMMANDS[way][0]) is None:
        pytest.skip(f"no {COMMANDS[way][0]}")
    project, request = request_of(tmp_path)
    with connect(project.platform, manifest_of(project).layout) as duck:
        expected = answer(
            request, lambda files: nw.from_native(duck.parquet(map(Path, files))), DuckStore(duck)
        )
    result, answers, lines = run(COMMANDS[way], request)
    assert result.success, lines
    (found,) = answers
    assert_equal_sums(found.sums, expected.sums)
    assert found.n_exposed == expected.n_exposed
    assert found.n_immature == expected.n_immature
    assert any("experiment=trial units=800" in line for line in lines)


def test_a_job_that_fails_fails_the_run(tmp_path):
    _, request = request_of(tmp_path)
    Path(request.exposures[0]).unlink()
    result, answers, _ = run(COMMANDS["python"], request)
    assert not result.success
    assert answers == []
    error = result.failure_data_for_node("sums").error.to_string()
    assert "External execution process failed" in error

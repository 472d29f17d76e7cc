"""The sums of a look from a job that Dagster Pipes submits: `deploy/spark/job.py`."""

from __future__ import annotations

import dagster as dg

from experiments_dagster.looks.remote import Answer, Request, read_answer
from experiments_dagster.storage.errors import StorageError


class SparkJob(dg.ConfigurableResource[None]):
    """How the job is submitted, such as [spark-submit, --master, yarn, deploy/spark/job.py].

    The driver runs where this process runs (client mode), so that its messages arrive by file;
    its log lines become lines of the run's log.
    """

    command: list[str]
    env: dict[str, str] | None = None

    def sums(self, context: dg.AssetExecutionContext, request: Request) -> Answer:
        """Submit one request and wait for its answer.

        The asset that asks returns a `MaterializeResult` of its own.

        Args:
            context: Of the step that waits.
            request: What to add up.

        Raises:
            StorageError: The job ended without an answer.
            DagsterPipesExecutionError: It failed; its error stands in the run's log.
        """
        done = dg.PipesSubprocessClient().run(
            context=context,
            command=self.command,
            env=self.env,
            extras={"request": request.document()},
        )
        for message in done.get_custom_messages():
            if "answer" in message:
                return read_answer(message["answer"])
        raise StorageError(f"{self.command[0]}: the job of {request.experiment.slug} sent no sums")

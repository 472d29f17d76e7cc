"""The sums of one look, made by Spark: submitted by Dagster Pipes, answers by a message.

    spark-submit --master MASTER deploy/spark/job.py

`spark-submit` says where Spark runs; the file also runs as a plain Python script, on a session of
its own. The request comes as the extra `request`, the answer goes back as the custom message
`answer`. Every executor must be able to read the landed files under the paths in the request, and
needs nothing but Spark; the driver needs this package with its extra `spark`.
"""

from __future__ import annotations

import os
import time

from dagster_pipes import open_dagster_pipes

from experiments_dagster.frames import spark
from experiments_dagster.looks.remote import answer, read_request

# What spark-submit sets for a Python driver that it started.
UNDER_SUBMIT = "PYSPARK_GATEWAY_PORT"


def main() -> None:
    """Answer the request that Dagster Pipes brought."""
    with open_dagster_pipes() as pipes:
        request = read_request(pipes.get_extra("request"))
        slug = request.experiment.slug
        files = len(request.exposures) + sum(map(len, request.events.values()))
        pipes.log.info("experiment=%s files=%d", slug, files)
        started = time.monotonic()
        master = None if UNDER_SUBMIT in os.environ else pipes.extras.get("master", "local[2]")
        with spark.session(master=master) as session:
            found = answer(request, session.scan, session)
        seconds = time.monotonic() - started
        units = sum(found.n_exposed.values())
        pipes.log.info("experiment=%s units=%d seconds=%.1f", slug, units, seconds)
        pipes.report_custom_message({"answer": found.document()})


if __name__ == "__main__":
    main()

"""Spark as an engine of the one definition: a session, its files, and what it keeps.

PySpark and Java come with the extra `spark`; nothing is imported before a session is asked for.
Files must be readable under their own paths by every executor.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import narwhals as nw
import polars as pl

from experiments_dagster.config.platform import Platform
from experiments_dagster.frames.definitions import Frame
from experiments_dagster.storage.errors import StorageError

# On one machine 200 partitions per shuffle, Spark's default, are 200 tasks with nothing to do.
LOCAL = {
    "spark.sql.shuffle.partitions": "4",
    "spark.ui.enabled": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
}
# Naive times are UTC everywhere; aggregates come back as Arrow.
ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.parquet.mergeSchema": "true",
}


class SparkStore:
    """Reads and keeps rows in one Spark session.

    Args:
        native: A `pyspark.sql.SparkSession`.
    """

    def __init__(self, native: Any) -> None:
        self.native = native
        self._kept: list[Any] = []

    def scan(self, files: Sequence[str]) -> Frame:
        """A lazy frame over landed Parquet files; a column that some lack is null there."""
        frame: Frame = nw.from_native(self.native.read.parquet(*files))
        return frame

    def keep(self, frame: Frame) -> Frame:
        """The same rows, computed when first needed and kept, on disk where memory ends."""
        kept = frame.to_native().persist()
        self._kept.append(kept)
        rows: Frame = nw.from_native(kept)
        return rows

    def table(self, rows: pl.DataFrame) -> Frame:
        """A few rows of our own."""
        frame: Frame = nw.from_native(self.native.createDataFrame(rows.to_arrow()))
        return frame

    def release(self) -> None:
        """Forget what was kept."""
        while self._kept:
            self._kept.pop().unpersist()


def missing() -> str | None:
    """Why Spark cannot run here, or None."""
    if find_spec("pyspark") is None:
        return "PySpark is not installed. Hint: pip install 'experiments-dagster[spark]'"
    if shutil.which("java") is None:
        return "no `java` on the PATH. Hint: Spark 4 needs a Java runtime, 17 or newer"
    return None


@contextlib.contextmanager
def session(
    *, master: str | None = "local[2]", settings: Mapping[str, str] | None = None
) -> Iterator[SparkStore]:
    """A Spark session; one that this call started is stopped at the end.

    Args:
        master: Where Spark runs; None under `spark-submit`, which says so itself.
        settings: Further Spark properties.

    Raises:
        StorageError: PySpark or Java is missing.
    """
    reason = missing()
    if reason is not None:
        raise StorageError(f"engine spark: {reason}")
    # By name: the package is checked without PySpark.
    SparkSession: Any = import_module("pyspark.sql").SparkSession
    before = SparkSession.getActiveSession()
    builder = SparkSession.builder.appName("experiments_dagster")
    properties = ALWAYS | (LOCAL if master and master.startswith("local") else {})
    for name, value in (properties | dict(settings or {})).items():
        builder = builder.config(name, value)
    if master is not None:
        builder = builder.master(master)
    native = builder.getOrCreate()
    store = SparkStore(native)
    try:
        yield store
    finally:
        store.release()
        if before is None:
            native.stop()


def settings_of(platform: Platform) -> dict[str, Any]:
    """The arguments of `session` that configs/platform.yaml gives."""
    settings = platform.spark
    if settings is None:
        return {"master": f"local[{platform.threads}]"}
    return {"master": settings.master, "settings": settings.settings}

"""Without PySpark or Java the engine says what is missing; nothing else needs them."""

import pytest

from experiments_dagster.frames import spark
from experiments_dagster.storage.errors import StorageError


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(spark, "find_spec", lambda name: None)
    with (
        pytest.raises(StorageError, match=r"engine spark: PySpark.*experiments-dagster\[spark\]"),
        spark.session(),
    ):
        pass


def test_missing_java_is_named_with_the_version_it_takes(monkeypatch):
    monkeypatch.setattr(spark, "find_spec", lambda name: object())
    monkeypatch.setattr(spark.shutil, "which", lambda name: None)
    assert "17 or newer" in spark.missing()

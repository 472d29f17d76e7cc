"""The connection: reads what it is given, and nothing else."""

import duckdb
import polars as pl
import pytest

from experiments_dagster.storage.duck import connect
from experiments_dagster.storage.layout import Layout

ATTACKS = [
    "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM read_blob('{outside}/secret.parquet')",
    "SELECT * FROM read_parquet('{outside}/secret.parquet')",
    "SELECT * FROM '{outside}/secret.parquet'",
    "SELECT * FROM read_parquet('{root}/../outside/secret.parquet')",
    "SELECT * FROM glob('{outside}/*')",
    "SELECT * FROM read_csv('https://example.org/x.csv')",
    "COPY (SELECT 1) TO '{outside}/stolen.csv'",
    "ATTACH '{outside}/other.duckdb'",
    "EXPORT DATABASE '{outside}/dump'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access=true",
    "SET allowed_directories=['/']",
    "SET lock_configuration=false",
    "RESET enable_external_access",
    "PRAGMA enable_profiling",
    "SELECT * FROM secret_frame",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_sql_reaches_nothing_outside_its_folders(project, tmp_path, attack):
    outside = tmp_path / "outside"
    outside.mkdir()
    pl.DataFrame({"x": [1]}).write_parquet(outside / "secret.parquet")
    secret_frame = pl.DataFrame({"x": [1]})
    layout = Layout(project.storage)
    statement = attack.format(outside=outside, root=layout.root)
    with connect(project.platform, layout) as duck, pytest.raises(duckdb.Error):
        duck.execute(statement)
    assert sorted(path.name for path in outside.iterdir()) == ["secret.parquet"]
    assert secret_frame.height == 1


def test_own_folders_are_read_and_the_session_is_in_utc(project, tmp_path):
    layout = Layout(project.storage)
    given = tmp_path / "given"
    for folder in (layout.root, given):
        folder.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"x": [1]}).write_parquet(folder / "mine.parquet")
    with connect(project.platform, layout, folders=[given]) as duck:
        for folder in (layout.root, given):
            assert duck.parquet([folder / "mine.parquet"]).pl()["x"].to_list() == [1]
        assert duck.query("SELECT current_setting('TimeZone') AS z")["z"][0] == "UTC"
        assert duck.query("SELECT $x AS x", x="'; DROP")["x"][0] == "'; DROP"

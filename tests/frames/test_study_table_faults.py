"""Tables that people hand over, with the faults that such tables have."""

import datetime as dt

import polars as pl
import pytest
from pydantic import ValidationError

from experiments_dagster.config.study_data import PanelFile, SeriesFile, UnitsFile
from experiments_dagster.frames.study_tables import read_panel_file, read_units_file


def panel_table(**columns):
    """Two states over four years; ny is treated from 2002 on."""
    rows = pl.DataFrame(
        {
            "state": ["ca"] * 4 + ["ny"] * 4,
            "year": [2000, 2001, 2002, 2003] * 2,
            "y": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            "on": [0, 0, 0, 0, 0, 0, 1, 1],
        }
    )
    return rows.with_columns(**columns)


def panel_file(tmp_path, table, **fields):
    path = tmp_path / "panel.parquet"
    table.write_parquet(path)
    named = {"unit": "state", "time": "year", "outcome": "y", **fields}
    return path, PanelFile.model_validate({"file": "panel.parquet", **named})


def units_file(tmp_path, text, **fields):
    path = tmp_path / "units.csv"
    path.write_text(text)
    return path, UnitsFile.model_validate({"file": "units.csv", "outcome": "y", **fields})


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (SeriesFile, {"date": "day", "outcome": "y", "covariates": ("x", "y")}),
        (SeriesFile, {"date": "day", "outcome": "y", "covariates": ("x", "x")}),
        (SeriesFile, {"date": "day", "outcome": "day"}),
        (
            PanelFile,
            {"unit": "s", "time": "t", "outcome": "y", "is_treated": "on", "covariates": ("y",)},
        ),
        (PanelFile, {"unit": "s", "time": "s", "outcome": "y", "is_treated": "on"}),
        (UnitsFile, {"outcome": "y", "treated": "t", "covariates": ("x", "t")}),
        (UnitsFile, {"outcome": "y", "treated": "t", "covariates": ("x", "log x"), "log": ("x",)}),
    ],
)
def test_a_column_has_one_role(model, fields):
    with pytest.raises(ValidationError, match="columns with two roles"):
        model.model_validate({"file": "a.csv", **fields})


def test_names_that_a_series_frame_uses_are_refused():
    with pytest.raises(ValidationError, match="a covariate cannot be called treated"):
        SeriesFile(file="a.csv", date="day", outcome="y", covariates=("treated",))


def test_a_missing_outcome_does_not_move_a_start(tmp_path):
    # The first treated year of ny lacks its outcome, not its treatment.
    gap = pl.when(pl.col("on").cum_sum() == 1).then(None).otherwise(pl.col("y"))
    path, panel = panel_file(tmp_path, panel_table(y=gap), is_treated="on")
    frame, left_out = read_panel_file(path, panel)
    assert frame.filter(pl.col("unit") == "ny")["first_treated"].unique().to_list() == [2]
    assert left_out == {"y is missing": 1}
    nothing = pl.when(pl.col("on") == 1).then(None).otherwise(pl.col("y"))
    path, panel = panel_file(tmp_path, panel_table(y=nothing), is_treated="on")
    frame, _ = read_panel_file(path, panel)
    assert frame.filter(pl.col("unit") == "ny")["first_treated"].unique().to_list() == [2]


@pytest.mark.parametrize(
    ("columns", "fields", "said"),
    [
        ({"year": pl.lit(dt.timedelta(days=1))}, {"is_treated": "on"}, "must be whole numbers"),
        ({"year": pl.lit(2**63, pl.UInt64)}, {"is_treated": "on"}, "too large for a period"),
        ({"at": pl.lit(2002.5)}, {"first_treated": "at"}, "are no whole numbers"),
        (
            {"at": pl.lit(2002), "year": pl.date(pl.col("year"), 1, 1)},
            {"first_treated": "at"},
            "must be dates as year is",
        ),
    ],
)
def test_strange_columns_are_refused_in_words(tmp_path, columns, fields, said):
    path, panel = panel_file(tmp_path, panel_table(**columns), **fields)
    with pytest.raises(ValueError, match=said) as caught:
        read_panel_file(path, panel)
    assert str(2**63) not in str(caught.value)


@pytest.mark.parametrize("never", [0.0, float("inf"), None])
def test_units_that_never_are_treated_may_be_written_in_three_ways(tmp_path, never):
    first = pl.when(pl.col("state") == "ny").then(2002.0).otherwise(pl.lit(never, pl.Float64))
    path, panel = panel_file(tmp_path, panel_table(at=first), first_treated="at")
    frame, _ = read_panel_file(path, panel)
    starts = dict(frame.select("unit", "first_treated").unique().iter_rows())
    assert starts == {"ca": None, "ny": 2}


def test_ids_of_a_csv_keep_their_zeros(tmp_path):
    path = tmp_path / "panel.csv"
    path.write_text("state,year,y\n001,1,2.0\n001,2,3.0\n002,1,2.5\n002,2,2.75\n")
    panel = PanelFile(
        file="panel.csv", unit="state", time="year", outcome="y", treated_units=("001",), starts=2
    )
    frame, _ = read_panel_file(path, panel)
    assert frame["unit"].unique().sort().to_list() == ["001", "002"]


def test_a_covariate_may_be_called_n(tmp_path):
    path, units = units_file(
        tmp_path, "y,t,n\n1,0,a\n2,1,b\n3,0,a\n4,1,a\n", treated="t", covariates=("n",)
    )
    frame, _ = read_units_file(path, units)
    assert frame.columns == ["unit", "outcome", "treated", "x.n=b"]


def test_missing_ids_are_counted_and_repeated_ones_refused(tmp_path):
    text = "id,y,t,x\na,1,0,1\n,2,1,2\n,3,0,3\nb,4,1,1\n"
    path, units = units_file(tmp_path, text, unit="id", treated="t", covariates=("x",))
    frame, left_out = read_units_file(path, units)
    assert (frame["unit"].to_list(), left_out) == (["a", "b"], {"a value is missing": 2})
    path, units = units_file(
        tmp_path, text.replace("b,4", "a,4"), unit="id", treated="t", covariates=("x",)
    )
    with pytest.raises(ValueError, match="column 'id' 1 rows repeat a unit"):
        read_units_file(path, units)


def test_limits_without_a_row_inside_say_so(tmp_path):
    path, units = units_file(tmp_path, "y,r\n1,0.5\n2,0.7\n", running="r", minimum=5.0)
    with pytest.raises(ValueError, match="column 'r' has no value from 5 to inf"):
        read_units_file(path, units)


def test_at_a_cutoff_a_missing_covariate_keeps_the_row(tmp_path):
    text = "y,r,x\n1,0.5,\n2,0.7,3\n,0.9,4\n"
    path, units = units_file(tmp_path, text, running="r", covariates=("x",))
    frame, left_out = read_units_file(path, units)
    assert frame.height == 2
    assert frame["x.x"].to_list() == [None, 3.0]
    assert left_out == {"a value is missing": 1}

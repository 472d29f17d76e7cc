"""Tables of the project folder as frames: who is treated, what is left out, what is refused."""

import datetime as dt
import math

import polars as pl
import pytest

from experiments_dagster.config.study_data import PanelFile, UnitsFile
from experiments_dagster.contracts.studies import validate_panel, validate_units
from experiments_dagster.frames.study_tables import (
    MOST_LEVELS,
    describe_left_out,
    read_panel_file,
    read_units_file,
)

YEARS = (2001, 2002, 2003, 2004)
TABLE = {
    "region": [name for name in "abc" for _ in YEARS],
    "year": list(YEARS) * 3,
    "sales": [float(k) for k in range(12)],
}
FIRST = {"a": 2, "b": None, "c": None}
OWN = [0, 0, 1, 1] + [0] * 8
GROUP = [1] * 4 + [0] * 8


def write(folder, columns, *, name="table.parquet"):
    path = folder / name
    frame = pl.DataFrame(columns)
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return path


def panel(path, **changes):
    fields = {"file": "t", "unit": "region", "time": "year", "outcome": "sales"} | changes
    if "treated_units" not in fields and not {"group", "is_treated", "first_treated"} & set(fields):
        fields |= {"treated_units": ["a"], "starts": 2003}
    predictors = fields.pop("predictors", ())
    return read_panel_file(path, PanelFile(**fields), predictors)


def units(path, **changes):
    fields = {"file": "t", "outcome": "y"} | changes
    return read_units_file(path, UnitsFile(**fields))


def starts(frame):
    """First treated period by unit."""
    return dict(frame.group_by("unit").agg(pl.col("first_treated").first()).iter_rows())


WAYS = {
    "listed": ({}, {"treated_units": ["a"], "starts": 2003}),
    "group": ({"g": GROUP}, {"group": "g", "starts": 2003}),
    "is_treated": ({"g": OWN}, {"is_treated": "g"}),
    "is_treated as booleans": ({"g": [bool(k) for k in OWN]}, {"is_treated": "g"}),
    "is_treated as floats": ({"g": [float(k) for k in OWN]}, {"is_treated": "g"}),
    "first_treated": ({"g": [2003] * 4 + [None] * 8}, {"first_treated": "g"}),
    "first_treated, 0 is never": ({"g": [2003] * 4 + [0] * 8}, {"first_treated": "g"}),
    "first_treated, infinite is never": (
        {"g": [2003.0] * 4 + [math.inf] * 8},
        {"first_treated": "g"},
    ),
    "first_treated, not a number is never": (
        {"g": [2003.0] * 4 + [math.nan] * 8},
        {"first_treated": "g"},
    ),
    "first_treated after the last period is never": (
        {"g": [2003] * 4 + [2005] * 8},
        {"first_treated": "g"},
    ),
}


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_say_who_is_treated_gives_the_same_frame(tmp_path, way, name):
    columns, spec = WAYS[way]
    frame, left_out = panel(write(tmp_path, TABLE | columns, name=name), **spec)
    validate_panel(frame, "trial")
    assert starts(frame) == FIRST
    assert left_out == {}
    assert frame.columns == ["unit", "period", "label", "outcome", "first_treated"]
    assert frame["unit"].to_list() == TABLE["region"]
    assert frame["period"].to_list() == [0, 1, 2, 3] * 3
    assert frame["label"].to_list() == [str(year) for year in YEARS] * 3
    assert frame["outcome"].to_list() == TABLE["sales"]


def test_units_may_start_at_different_periods(tmp_path):
    table = TABLE | {"g": [2002] * 4 + [2004] * 4 + [0] * 4}
    frame, _ = panel(write(tmp_path, table), first_treated="g")
    assert starts(frame) == {"a": 1, "b": 3, "c": None}


def test_a_start_between_two_periods_counts_from_the_next_one(tmp_path):
    table = TABLE | {"year": [2000, 2004, 2008, 2012] * 3, "g": [2005] * 4 + [0] * 8}
    path = write(tmp_path, table)
    assert starts(panel(path, first_treated="g")[0]) == FIRST
    assert starts(panel(path, treated_units=["a"], starts=2005)[0]) == FIRST


DAYS = [dt.date(2026, 1, 30) + dt.timedelta(days=k) for k in range(4)]


@pytest.mark.parametrize(
    "times",
    [
        DAYS,
        [dt.datetime.combine(day, dt.time(13)) for day in DAYS],
        [str(day) for day in DAYS],
        [f"{day}T23:59:59" for day in DAYS],
    ],
    ids=["dates", "instants", "text", "text with a time"],
)
def test_periods_may_be_days(tmp_path, times):
    table = TABLE | {"year": times * 3}
    frame, _ = panel(write(tmp_path, table), treated_units=["a"], starts="2026-02-01")
    assert starts(frame) == FIRST
    assert frame["label"].to_list()[:4] == [str(day) for day in DAYS]


def test_years_may_be_saved_as_floats(tmp_path):
    table = TABLE | {"year": [float(year) for year in TABLE["year"]]}
    assert panel(write(tmp_path, table))[0]["label"].to_list()[:2] == ["2001", "2002"]


def test_units_may_be_numbers(tmp_path):
    for numbers in ([17, 18, 19], [17.0, 18.0, 19.0]):
        table = TABLE | {"region": [number for number in numbers for _ in YEARS]}
        frame, _ = panel(write(tmp_path, table), treated_units=[17], starts=2003)
        assert starts(frame) == {"17": 2, "18": None, "19": None}


def test_only_the_window_and_the_units_asked_for(tmp_path):
    frame, left_out = panel(write(tmp_path, TABLE), first=2002, last=2003, exclude_units=["c"])
    assert frame["label"].to_list() == ["2002", "2003"] * 2
    assert starts(frame) == {"a": 1, "b": None}
    # What lies outside was not asked for: it is not missing.
    assert left_out == {}


@pytest.mark.parametrize("window", [{}, {"first": 2001, "exclude_units": ["c"]}])
def test_rows_without_a_value_are_left_out_and_counted(tmp_path, window):
    table = {name: list(values) for name, values in TABLE.items()}
    table["region"][0] = None
    table["year"][5] = None
    table["sales"][2], table["sales"][6] = None, math.nan
    frame, left_out = panel(write(tmp_path, table), **window)
    assert left_out == {"no unit or time": 2, "sales is missing": 2}
    assert frame.height == (8 if not window else 4)
    assert frame["outcome"].null_count() == 0
    assert describe_left_out(left_out) == [
        "2 rows left out: no unit or time",
        "2 rows left out: sales is missing",
    ]


@pytest.mark.parametrize("missing", ["", "NA", "N/A", "NaN", "null", "."])
def test_what_exports_write_for_a_missing_value(tmp_path, missing):
    path = tmp_path / "table.csv"
    rows = [f"a,2001,{missing}", "a,2002,1.5", "b,2001,1", "b,2002,2"]
    path.write_text("\n".join(["region,year,sales", *rows]) + "\n")
    frame, left_out = panel(path, treated_units=["a"], starts=2002)
    assert left_out == {"sales is missing": 1}
    assert frame["outcome"].to_list() == [1.5, 1.0, 2.0]


def test_covariates_and_predictors_keep_their_gaps(tmp_path):
    table = TABLE | {"income": [None, 1.0] * 6, "beer": [2] * 12}
    frame, left_out = panel(
        write(tmp_path, table), covariates=["income"], predictors=["beer", "income", "sales"]
    )
    validate_panel(frame, "trial")
    # The outcome as a predictor is the outcome.
    assert frame.columns[5:] == ["x.income", "x.beer"]
    assert frame["x.income"].null_count() == 6
    assert left_out == {}


def test_rows_without_units_are_units_of_their_own(tmp_path):
    table = {"after": [0, 1, 0, 1, 1], "y": [1.0, 2, 3, 4, None], "g": [1, 1, 0, 0, 0]}
    fields = {"file": "t", "time": "after", "outcome": "y", "group": "g", "starts": 1}
    frame, left_out = read_panel_file(write(tmp_path, table), PanelFile(**fields))
    validate_panel(frame, "trial")
    assert frame["unit"].n_unique() == frame.height == 4
    assert frame["first_treated"].to_list() == [1, 1, None, None]
    assert left_out == {"y is missing": 1}


REFUSED = {
    "no such column": ({}, {"outcome": "revenue"}, "column 'revenue' is missing; it has region"),
    "text as outcome": (
        {"sales": ["x"] * 12},
        {},
        "column 'sales' must be numbers, it has type String",
    ),
    "no outcome": ({"sales": [None] * 12}, {}, "column 'sales' has no value in the panel"),
    "infinite outcome": (
        {"sales": [math.inf] * 2 + [1.0] * 10},
        {},
        "column 'sales' 2 values are infinite",
    ),
    "half years": (
        {"year": [2001.5, 2002.0, 2003.0, 2004.0] * 3},
        {},
        "column 'year' must be whole numbers such as years, or dates",
    ),
    "other dates": (
        {"year": ["1 May", "2 May", "3 May", "4 May"] * 3},
        {},
        "column 'year' 12 values are no dates such as 2026-01-31",
    ),
    "a start of another type": (
        {},
        {"treated_units": ["a"], "starts": "2003-01-01"},
        "column 'year' holds whole numbers, but starts is 2003-01-01",
    ),
    "a window of another type": (
        {"year": DAYS * 3},
        {"treated_units": ["a"], "starts": "2026-02-01", "first": 2001},
        "column 'year' holds dates, but first is 2001",
    ),
    "a start before the panel": (
        {},
        {"treated_units": ["a"], "starts": 2001},
        "runs from 2001 to 2004; starts 2001 must lie inside",
    ),
    "a start after the panel": (
        {},
        {"treated_units": ["a"], "starts": 2005},
        "runs from 2001 to 2004; starts 2005 must lie inside",
    ),
    "an unknown treated unit": (
        {},
        {"treated_units": ["z"], "starts": 2003},
        "column 'region' has no unit 'z'",
    ),
    "an unknown excluded unit": ({}, {"exclude_units": ["z"]}, "column 'region' has no unit 'z'"),
    "all treated units excluded": (
        {},
        {"exclude_units": ["a"]},
        "column 'region' nobody is treated inside the panel",
    ),
    "nobody treated": (
        {"g": [0] * 12},
        {"is_treated": "g"},
        "column 'region' nobody is treated inside the panel",
    ),
    "treatment that ends": (
        {"g": [0, 1, 1, 0] + [0] * 8},
        {"is_treated": "g"},
        "column 'g' 1 units are no longer treated after they were",
    ),
    "treatment by another number": (
        {"g": [2] + [0] * 11},
        {"is_treated": "g"},
        "column 'g' 1 values are neither 0 nor 1",
    ),
    "unknown treatment": (
        {"g": [None, *OWN[1:]]},
        {"is_treated": "g"},
        "column 'g' 1 values are neither 0 nor 1",
    ),
    "treatment in words": (
        {"g": ["yes"] * 12},
        {"is_treated": "g"},
        "column 'g' must hold 0 and 1, it has type String",
    ),
    "a unit of both groups": (
        {"g": [0, 1, 1, 1] + [0] * 8},
        {"group": "g", "starts": 2003},
        "column 'g' 1 units have both values, need one group per unit",
    ),
    "two starts of one unit": (
        {"g": [2002, 2003, 2003, 2003] + [0] * 8},
        {"first_treated": "g"},
        "column 'g' 1 units have several values, need one",
    ),
    "half a year as start": (
        {"g": [2002.5] * 4 + [0.0] * 8},
        {"first_treated": "g"},
        "column 'g' 4 values are no whole numbers such as years",
    ),
    "a date as start of years": (
        {"g": [dt.date(2003, 1, 1)] * 4 + [None] * 8},
        {"first_treated": "g"},
        "column 'g' must be whole numbers as year is",
    ),
    "a year as start of days": (
        {"year": DAYS * 3, "g": [2003] * 4 + [0] * 8},
        {"first_treated": "g"},
        "column 'g' must be dates as year is",
    ),
    "a row that repeats": (
        {"year": [2001, 2001, 2003, 2004] + list(YEARS) * 2},
        {},
        "column 'year' 1 rows repeat a unit and period, need one row each",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_panel_is_refused_in_words(tmp_path, case):
    columns, spec, words = REFUSED[case]
    path = write(tmp_path, TABLE | columns)
    with pytest.raises(ValueError, match="column") as error:
        panel(path, **spec)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.csv: cannot be read as \.csv \(no such file\)"):
        panel(tmp_path / "nothing.csv")
    path = tmp_path / "table.xlsx"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"unknown file type '\.xlsx'; use \.parquet or \.csv"):
        panel(path)


UNITS = {
    "id": [1, 2, 3, 4, 5],
    "y": [1.0, 2.0, 3.0, 4.0, 5.0],
    "w": [1, 0, 1, 0, 0],
    "arm": ["A", "B", "A", "B", "C"],
    "kind": ["x", "y", "y", "z", "y"],
    "x": [0.0, 1.0, 3.0, 7.0, 15.0],
    "before": [1.0, 1.0, 2.0, 2.0, 3.0],
}


def test_units_by_0_and_1(tmp_path):
    frame, left_out = units(
        write(tmp_path, UNITS),
        unit="id",
        treated="w",
        covariates=["x"],
        placebo_outcomes=["before"],
    )
    validate_units(frame, "trial")
    assert frame.columns == ["unit", "outcome", "treated", "x.x", "placebo.before"]
    assert frame["unit"].to_list() == ["1", "2", "3", "4", "5"]
    assert frame["treated"].to_list() == [True, False, True, False, False]
    assert left_out == {}


def test_units_by_two_arms_of_three(tmp_path):
    frame, left_out = units(
        write(tmp_path, UNITS), treated="arm", treatment="A", control="B", covariates=["x"]
    )
    assert frame["outcome"].to_list() == [1.0, 2.0, 3.0, 4.0]
    assert frame["treated"].to_list() == [True, False, True, False]
    assert left_out == {"another arm": 1}


def test_arms_may_be_numbers(tmp_path):
    table = UNITS | {"arm": [7, 8, 7, 8, 9]}
    frame, left_out = units(
        write(tmp_path, table), treated="arm", treatment=7, control=8, covariates=["x"]
    )
    assert frame["treated"].to_list() == [True, False, True, False]
    assert left_out == {"another arm": 1}


def test_text_becomes_a_column_per_value_but_the_most_frequent(tmp_path):
    frame, _ = units(write(tmp_path, UNITS), treated="w", covariates=["kind", "x"])
    assert frame.columns[3:] == ["x.kind=x", "x.kind=z", "x.x"]
    assert frame["x.kind=x"].to_list() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert frame["x.kind=z"].to_list() == [0.0, 0.0, 0.0, 1.0, 0.0]


def test_the_base_of_a_text_column_does_not_hang_on_the_row_order(tmp_path):
    table = pl.DataFrame(UNITS | {"kind": ["x", "y", "x", "y", "z"]})
    shuffled = table.reverse()
    found = [
        units(write(tmp_path, rows.to_dict()), unit="id", treated="w", covariates=["kind"])[0]
        for rows in (table, shuffled)
    ]
    assert found[0].columns == found[1].columns
    assert found[0].columns[3:] == ["x.kind=y", "x.kind=z"]
    assert found[0].equals(found[1].reverse())


def test_booleans_are_numbers(tmp_path):
    table = UNITS | {"x": [True, False, True, False, True], "w": [True, False, True, False, False]}
    frame, _ = units(write(tmp_path, table), treated="w", covariates=["x"])
    assert frame["x.x"].to_list() == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert frame["treated"].to_list() == [True, False, True, False, False]


def test_covariates_on_a_log_scale(tmp_path):
    frame, _ = units(write(tmp_path, UNITS), treated="w", covariates=["x"], log=["x"])
    assert frame["x.log x"].to_list() == pytest.approx([math.log1p(v) for v in UNITS["x"]])
    table = UNITS | {"x": [-1.0, 1.0, 3.0, 7.0, 15.0]}
    with pytest.raises(ValueError, match="1 values are negative and have no logarithm"):
        units(write(tmp_path, table), treated="w", covariates=["x"], log=["x"])


def test_units_that_lack_a_value_are_left_out_and_counted(tmp_path):
    table = UNITS | {
        "y": [None, 2.0, 3.0, 4.0, 5.0],
        "kind": ["x", None, "y", "z", "y"],
        "x": [0.0, 1.0, math.nan, 7.0, 15.0],
    }
    frame, left_out = units(write(tmp_path, table), treated="w", covariates=["kind", "x"])
    validate_units(frame, "trial")
    assert frame["outcome"].to_list() == [4.0, 5.0]
    assert left_out == {"a value is missing": 3}


def test_at_a_cutoff_a_unit_without_a_covariate_still_counts(tmp_path):
    table = UNITS | {"x": [None, 1.0, 3.0, 7.0, 15.0], "before": [1.0, None, 2.0, 2.0, 3.0]}
    frame, left_out = units(
        write(tmp_path, table), running="x", covariates=["before"], minimum=2, maximum=10
    )
    validate_units(frame, "trial")
    assert "treated" not in frame.columns
    assert frame["running"].to_list() == [3.0, 7.0]
    assert left_out == {"x outside 2 to 10": 2, "a value is missing": 1}
    whole, _ = units(write(tmp_path, table), running="x", covariates=["before"])
    assert whole["x.before"].to_list() == [None, 2.0, 2.0, 3.0]


def test_rows_without_a_name_are_numbered(tmp_path):
    frame, _ = units(write(tmp_path, UNITS), treated="w", covariates=["x"])
    assert frame["unit"].to_list() == ["0", "1", "2", "3", "4"]


UNITS_REFUSED = {
    "an arm that is not there": (
        {},
        {"treated": "arm", "treatment": "A", "control": "Z"},
        "column 'arm' has no value 'Z'; it has A, B, C",
    ),
    "treatment by another number": (
        {"w": [2, 0, 1, 0, 0]},
        {},
        "column 'w' 1 values are neither 0 nor 1",
    ),
    "unknown treatment": (
        {"w": [None, 0, 1, 0, 0]},
        {},
        "column 'w' 1 values are neither 0 nor 1",
    ),
    "treatment in words": ({}, {"treated": "arm"}, "column 'arm' must hold 0 and 1"),
    "a unit twice": (
        {"id": [1, 1, 2, 2, 3]},
        {"unit": "id"},
        "column 'id' 2 rows repeat a unit, need one row per unit",
    ),
    "text with one value": (
        {"kind": ["x"] * 5},
        {"covariates": ["kind"]},
        "column 'kind' has one value only and tells no units apart",
    ),
    "no row is whole": (
        {"x": [None] * 5},
        {"covariates": ["x"]},
        "column 'y' no row has all values",
    ),
    "infinite covariate": (
        {"x": [math.inf, 1.0, 2.0, 3.0, 4.0]},
        {},
        "column 'x' 1 values are infinite",
    ),
    "a date as covariate": (
        {"x": [dt.date(2026, 1, 1) + dt.timedelta(days=k) for k in range(60)]},
        {"covariates": ["x"]},
        f"column 'x' has 60 values, at most {MOST_LEVELS} become columns",
    ),
    "text as placebo outcome": (
        {},
        {"placebo_outcomes": ["kind"]},
        "column 'kind' must be numbers, it has type String",
    ),
}


@pytest.mark.parametrize("case", UNITS_REFUSED)
def test_units_are_refused_in_words(tmp_path, case):
    columns, spec, words = UNITS_REFUSED[case]
    table = UNITS | columns
    longest = max(len(values) for values in table.values())
    table = {name: (values * longest)[:longest] for name, values in table.items()}
    path = write(tmp_path, table)
    with pytest.raises(ValueError, match="column") as error:
        units(path, **({"treated": "w", "covariates": ["x"]} | spec))
    assert words in str(error.value)
    assert str(path) in str(error.value)

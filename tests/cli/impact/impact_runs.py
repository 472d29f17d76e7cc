"""How the tests of this folder run the two verbs and make files."""

import csv
import datetime as dt
import json
from pathlib import Path

from typer.testing import CliRunner

from experiments_dagster.cli import app

REPOSITORY = Path(__file__).parents[3]
EXAMPLE = REPOSITORY / "examples" / "timeseries.csv"
TRUE_TOTAL = 60 * 12  # of the example: 12 a day higher on 60 days
FLAGS = (
    *("--input", EXAMPLE, "--y", "y", "--x", "sessions,active_users,external_index"),
    *("--intervention", "2025-06-30"),
)
METHODS = ("causal_impact_like", "synthetic_control", "did")


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def load(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def results(folder, *arguments):
    """The results of a command that writes into a folder."""
    invoke(*arguments, "--out", folder)
    return load((folder / "results.json").read_text())


def printed(tmp_path, *arguments):
    """The JSON of a command, without a folder."""
    return load(invoke(*arguments, "--json", "--out-md", tmp_path / "report.md").stdout)


def refused(*arguments, code=2):
    """What is said about a mistake."""
    return " ".join(invoke(*arguments, "--json", code=code).stderr.split())


def table(path):
    with path.open() as lines:
        reader = csv.DictReader(lines)
        return list(reader.fieldnames), list(reader)


def write_series(path, first="2025-01-01", step=1, **columns):
    """A file with a date column; a row of empty text stands for a missing value."""
    day = dt.date.fromisoformat(first)
    lines = [",".join(("date", *columns))]
    for k, row in enumerate(zip(*columns.values(), strict=True)):
        lines.append(",".join((str(day + dt.timedelta(days=step * k)), *map(str, row))))
    path.write_text("\n".join(lines) + "\n")
    return path

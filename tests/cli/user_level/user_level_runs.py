"""How the tests of this folder run commands and make files."""

import json

import numpy as np
from typer.testing import CliRunner

from experiments_dagster.cli import app

# The example files of trustworthy-experiments-core 0.1.0 (MIT), whose printed numbers we keep.
USERS = """group,revenue,revenue_pre
control,0.0,0.0
control,1.2,0.8
control,0.0,0.0
control,3.1,2.7
control,0.5,0.3
test,0.0,0.0
test,1.5,0.7
test,0.0,0.0
test,4.0,2.5
test,0.6,0.2
"""
RATIOS = """group,revenue,sessions,revenue_pre,sessions_pre
control,10.0,20,8.0,18
control,0.0,5,0.0,4
control,3.0,10,2.0,9
test,12.0,22,9.0,19
test,0.0,6,0.0,5
test,4.0,11,3.0,10
"""
CUPED = ("--y", "revenue", "--x", "revenue_pre")
RATIO = (
    *("--num", "revenue", "--den", "sessions"),
    *("--num-pre", "revenue_pre", "--den-pre", "sessions_pre"),
)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments, code=0):
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    return result


def load(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def bundle(folder, *arguments, code=0):
    """The results of a command that writes into a folder."""
    run(*arguments, "--out", folder, code=code)
    return load((folder / "results.json").read_text())


def refused(*arguments):
    """What is said about a mistake."""
    return run(*arguments, "--json", code=2).stderr


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_columns(path, **columns):
    """A CSV of columns; NaN is an empty field."""
    rows = zip(*columns.values(), strict=True)
    lines = [",".join("" if value != value else str(value) for value in row) for row in rows]  # noqa: PLR0124
    return write(path, "\n".join([",".join(columns), *lines]) + "\n")


def arms(is_test):
    return np.where(is_test, "test", "control")

"""A plan and its looks, hand-made in `report_factories`."""

from __future__ import annotations

import pytest
from report_factories import make_experiment, make_look
from rich_factory import rich_looks

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Look


@pytest.fixture
def experiment() -> Experiment:
    return make_experiment()


@pytest.fixture
def looks(experiment: Experiment) -> list[Look]:
    return [make_look(number, experiment=experiment) for number in (1, 2, 3)]


@pytest.fixture(scope="session")
def rich(tmp_path_factory):
    """A project with everything and two looks at it, taken for real."""
    return rich_looks(tmp_path_factory.mktemp("rich"), numbers=(2, 4), wears_off=0.2, n_users=2000)

"""A plan and its looks, hand-made in `report_factories`."""

from __future__ import annotations

import pytest
from report_factories import make_experiment, make_look

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Look


@pytest.fixture
def experiment() -> Experiment:
    return make_experiment()


@pytest.fixture
def looks(experiment: Experiment) -> list[Look]:
    return [make_look(number, experiment=experiment) for number in (1, 2, 3)]

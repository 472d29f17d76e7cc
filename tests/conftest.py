"""Settings and fixtures of the whole suite; the factories behind them are in `factories.py`."""

import pytest
from factories import make_project
from hypothesis import settings

settings.register_profile("project", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("project")


@pytest.fixture
def project(tmp_path):
    """A project with the minimal configuration and nothing landed."""
    return make_project(tmp_path)

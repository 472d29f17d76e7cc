"""Where explorations lie: one long Parquet table and one page beside the experiment's report."""

from __future__ import annotations

from pathlib import Path

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.exploration.explore import explore
from experiments_dagster.exploration.record import Exploration, parquet_bytes
from experiments_dagster.exploration.report import render_exploration
from experiments_dagster.looks.take import read_current_inputs
from experiments_dagster.storage.atomic import write_bytes
from experiments_dagster.storage.layout import Layout

TABLE, PAGE = "exploration.parquet", "exploration.html"


def explore_current(layout: Layout, experiment: Experiment) -> Exploration:
    """Explore the published frames of an experiment.

    Raises:
        FileNotFoundError: None have been published yet.
    """
    try:
        inputs = read_current_inputs(layout, experiment)
    except FileNotFoundError:
        slug = experiment.slug
        msg = f"{slug}: no frames have been published yet; run `experiments run {slug}`"
        raise FileNotFoundError(msg) from None
    return explore(experiment, inputs)


def publish_exploration(layout: Layout, exploration: Exploration) -> tuple[Path, Path]:
    """Replace table and page; both can be made again at any time.

    Returns:
        The paths of the table and of the page.
    """
    folder = layout.reports(exploration.subject)
    table, page = folder / TABLE, folder / PAGE
    write_bytes(table, parquet_bytes(exploration))
    write_bytes(page, render_exploration(exploration).encode())
    return table, page

"""The resource that assets read: one project folder and its landed batches."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from experiments_dagster.automation.reap_dead_runs import tag_run_owner
from experiments_dagster.config.errors import ConfigError
from experiments_dagster.config.project import Project, read_project
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

STATEMENT_TIMEOUT_MS = 60_000


class ExperimentsProject(dg.ConfigurableResource[None]):
    """Configuration and storage of one project folder, read afresh where it is asked for.

    At the start of a run it writes down which process owns the run, so that a run whose process
    was killed can be told from one that works.
    """

    folder: str

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Tag the run with its owner process."""
        if context.instance is not None and context.run is not None:
            # Postgres storage opens a connection for each of the six transactions of an event.
            context.instance.optimize_for_webserver(
                STATEMENT_TIMEOUT_MS, pool_recycle=3600, max_overflow=5
            )
            tag_run_owner(context.instance, context.run.run_id)

    def load(self) -> Project:
        """What can be used of the configuration; a broken experiment file stops only itself.

        Raises:
            ConfigError: platform.yaml or metrics.yaml cannot be used.
        """
        project, issues = read_project(Path(self.folder))
        if project is None:
            raise ConfigError(issues)
        return project

    def manifest(self, project: Project) -> Manifest:
        """The landed batches, verified."""
        return Manifest(Layout(project.storage)).refresh()

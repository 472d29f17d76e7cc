"""`python -m experiments_dagster.service.webserver`: Dagster's webserver behind the guard.

Takes the options of `dagster-webserver` that a deployment uses, so that it can stand in its place.
It listens on loopback; on any other address only with `--behind-proxy`, by which somebody says
that what reaches the port has been let in by a proxy or by a container's port mapping.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator
from typing import Any

import click
import uvicorn
from dagster._cli.utils import assert_no_remaining_opts, get_possibly_temporary_instance_for_cli
from dagster._cli.workspace.cli_target import workspace_opts_to_load_target
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._utils.log import configure_loggers
from dagster_shared.cli import WorkspaceOpts, workspace_options
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__
from starlette.types import ASGIApp

from experiments_dagster.service.guard import Guard, host_name

logger = logging.getLogger("dagster-webserver")

COMMAND = "experiments-webserver"
LOG_LEVELS = click.Choice(["critical", "error", "warning", "info", "debug"], case_sensitive=False)


def is_loopback(host: str) -> bool:
    """Tell whether only processes of this machine reach a server that listens on `host`."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _host_names(_context: click.Context, _option: click.Parameter, names: Any) -> tuple[str, ...]:
    try:
        return tuple(host_name(name) for name in names)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@contextlib.asynccontextmanager
async def _lifespan(_app: ASGIApp) -> AsyncIterator[None]:
    # Ctrl-C cancels the wait for the end, which is no failure.
    with contextlib.suppress(asyncio.CancelledError):
        yield


@click.command(name=COMMAND, help="Serve the Dagster UI; refuse what only a hostile page sends.")
@click.option("--host", "-h", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", "-p", type=int, default=3000, show_default=True, help="Port to listen on.")
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    envvar="EXPERIMENTS_ALLOW_HOSTS",
    show_envvar=True,
    callback=_host_names,
    help="A host name by which browsers reach the server, without port; loopback is known.",
)
@click.option(
    "--behind-proxy",
    is_flag=True,
    help="Allow listening beyond loopback: a proxy or port mapping decides who gets here.",
)
@click.option("--read-only", is_flag=True, help="Refuse every mutation, from whomever.")
@click.option("--path-prefix", "-l", default="", help="Path below which the UI lies.")
@click.option("--db-statement-timeout", type=int, default=15_000, show_default=True, help="In ms.")
@click.option("--db-pool-recycle", type=int, default=3_600, show_default=True, help="In seconds.")
@click.option("--db-pool-max-overflow", type=int, default=20, show_default=True)
@click.option("--log-level", type=LOG_LEVELS, default="warning", show_default=True)
@click.version_option(version=__version__, prog_name=COMMAND)
@workspace_options
def main(
    host: str,
    port: int,
    allow_hosts: tuple[str, ...],
    path_prefix: str,
    db_statement_timeout: int,
    db_pool_recycle: int,
    db_pool_max_overflow: int,
    log_level: str,
    *,
    behind_proxy: bool,
    read_only: bool,
    **workspace: object,
) -> None:
    """Serve until stopped.

    Raises:
        click.UsageError: `host` is not loopback and nobody said that a proxy stands before it.
    """
    if not (is_loopback(host) or behind_proxy):
        msg = (
            f"--host {host} is open to the network, and the UI has no login: put a proxy before "
            "it that asks who is there, and say so with --behind-proxy"
        )
        raise click.UsageError(msg)
    configure_loggers(log_level=log_level.upper())
    target = workspace_opts_to_load_target(WorkspaceOpts.extract_from_cli_options(workspace))
    assert_no_remaining_opts(workspace)
    with get_possibly_temporary_instance_for_cli(cli_command=COMMAND, logger=logger) as instance:
        instance.optimize_for_webserver(db_statement_timeout, db_pool_recycle, db_pool_max_overflow)
        with WorkspaceProcessContext(
            instance, version=__version__, read_only=read_only, workspace_load_target=target
        ) as context:
            app = create_app_from_workspace_process_context(
                context, path_prefix, lifespan=_lifespan
            )
            uvicorn.run(Guard(app, allow_hosts), host=host, port=port, log_level=log_level.lower())


if __name__ == "__main__":
    main()

"""The command that shows a bandit's shares and effects, and computes past shares again."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments_dagster.cli.output import (
    DAMAGED,
    USAGE,
    AsJson,
    OutJson,
    OutMd,
    Sheet,
    deliver,
    exit_codes,
    fail,
    warn,
)

if TYPE_CHECKING:
    from experiments_dagster.automation.looks_run import Trouble
    from experiments_dagster.bandits.allocate import Replayed
    from experiments_dagster.bandits.estimates import Evidence
    from experiments_dagster.bandits.history import History
    from experiments_dagster.cli.runs import Runner
    from experiments_dagster.config.bandit import Bandit
    from experiments_dagster.config.project import Project

ADAPTIVE = (
    "ADAPTIVE: shares followed the outcomes, so pooled means and their usual intervals are not "
    "valid; these estimates use the recorded shares"
)
SHOWN_DIFFERENCES = 5


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(bandit)


def bandit(
    slug: Annotated[str, typer.Argument(help="Bandit, the name of its file in configs/bandits/.")],
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Compute every recorded period again; compare the bytes."),
    ] = False,
    config_dir: Annotated[
        Path,
        typer.Option(
            "--config-dir", help="The project folder, or its configs/ folder.", metavar="DIR"
        ),
    ] = Path(),
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """A bandit's shares per period and its effects; with --replay prove the shares."""
    with exit_codes():
        from experiments_dagster.bandits.history import read_history
        from experiments_dagster.storage.layout import Layout
        from experiments_dagster.storage.manifest import Manifest

        project = _project(config_dir)
        if slug not in project.bandits:
            known = ", ".join(project.bandits) or "none"
            fail(f"unknown bandit {slug!r}; known: {known}", USAGE)
        present = project.bandits[slug]
        manifest = Manifest(Layout(project.storage)).refresh()
        history = read_history(manifest.layout, slug)
        if not history.periods:
            fail(f"{slug}: no shares are recorded yet; run `experiments run`", USAGE)
        if history.plan is not None and history.plan["plan_hash"] != present.plan_hash:
            warn(f"{slug}: its file says something else than its first period froze")
        if replay:
            from experiments_dagster.bandits.allocate import replay as compute_again

            replayed = compute_again(project, manifest, present)
            document = replay_document(slug, replayed)
            sheets = [_replay_sheet(slug, replayed)]
        else:
            from experiments_dagster.bandits.estimates import collect_evidence

            frozen, now = history.frozen(present), dt.datetime.now(dt.UTC)
            evidence = collect_evidence(project, manifest, frozen, history, now)
            document = bandit_document(frozen, history, evidence)
            sheets = [_shares_sheet(history), _effects_sheet(frozen, evidence)]
        deliver(document, sheets, as_json=as_json, out_json=out_json, out_md=out_md)
        if replay and not document["identical"]:
            raise typer.Exit(DAMAGED)


def allocate_due(runner: Runner, as_of: dt.date | None) -> list[Trouble]:
    """Run `allocate_bandit` for every bandit whose next period has no shares yet.

    Args:
        runner: Of the project.
        as_of: 00:00 local time of this day instead of now.

    Returns:
        What could not be done.
    """
    from experiments_dagster.automation.jobs import allocate_bandit
    from experiments_dagster.bandits.allocate import due_bandits
    from experiments_dagster.cli.runs import QUIET, troubles_of
    from experiments_dagster.storage.manifest import Manifest

    manifest = Manifest(runner.layout).refresh()
    troubles = []
    for slug in due_bandits(runner.project, manifest, as_of):
        config = {"results__bandit": {"config": {"as_of": str(as_of or "")}}}
        result = runner.definitions.resolve_job_def(allocate_bandit.name).execute_in_process(
            instance=runner.instance,
            partition_key=slug,
            run_config={"ops": config, **QUIET},
            raise_on_error=False,
        )
        troubles += troubles_of(result, slug)
    return troubles


def bandit_document(bandit: Bandit, history: History, evidence: Evidence) -> dict[str, Any]:
    """Every recorded period, and the effects by all that has landed."""
    return {
        "bandit": bandit.slug,
        "metric": bandit.metric.name,
        "reward": bandit.reward.kind,
        "arms": list(bandit.arms),
        "control": bandit.control,
        "floor": bandit.floor,
        "seed": bandit.seed,
        "plan_hash": bandit.plan_hash,
        "periods": [record.model_dump(mode="json") for record in history.periods],
        "cutoff": evidence.cutoff,
        "as_of": evidence.as_of,
        "open_windows": evidence.n_open,
        "crossed_units": evidence.n_crossed,
        "sample_ratio": {
            "p_value": evidence.sample_ratio.p_value,
            "passed": evidence.sample_ratio.passed,
        },
        "estimates": list(evidence.estimates),
    }


def replay_document(slug: str, replayed: list[Replayed]) -> dict[str, Any]:
    """Which periods came out the same."""
    return {
        "bandit": slug,
        "periods": len(replayed),
        "identical": all(row.is_identical for row in replayed),
        "differing": [
            {"period": row.period, "differences": list(row.differences)}
            for row in replayed
            if not row.is_identical
        ],
    }


def _shares_sheet(history: History) -> Sheet:
    """One line per period: what was known, and how the next decisions were shared out."""
    arms = [row.arm for row in history.periods[0].arms]
    return Sheet(
        title=f"{history.slug}: share of each arm, the probability of every decision",
        columns=("period", "from", "cut-off", "units", *arms),
        rows=[
            (
                str(record.period),
                record.starts_on,
                str(record.cutoff),
                str(sum(row.n for row in record.arms)),
                *(f"{record.shares[arm]:.4f}" for arm in arms),
            )
            for record in history.periods
        ],
        align="rlrr" + "r" * len(arms),
    )


def _effects_sheet(bandit: Bandit, evidence: Evidence) -> Sheet:
    notes = [ADAPTIVE]
    thin = [row["fewest_units"] for row in evidence.estimates if row.get("is_thin")]
    if thin:
        notes.append(
            f"a period has only {min(thin)} units of an arm: these intervals are somewhat too "
            "narrow. Hint: longer periods, or a higher floor"
        )
    ratio = evidence.sample_ratio
    if not ratio.passed:
        notes.append(
            f"units met the arms in other shares than recorded (p {ratio.p_value:.2g}): the "
            "estimates are not to be trusted"
        )
    return Sheet(
        title=f"{bandit.metric.name}: difference from {bandit.control}",
        columns=("label", "arm", "method", "estimate", "std. error", "low", "high", "p"),
        rows=[_effect_cells(row) for row in evidence.estimates],
        align="lllrrrrr",
        notes=notes,
    )


def _effect_cells(row: dict[str, Any]) -> tuple[str, ...]:
    start = (row["label"], row["arm"], row["method"])
    if row["status"] != "ok":
        return (*start, row["reason"], "-", "-", "-", "-")
    numbers = ("estimate", "std_error", "ci_low", "ci_high")
    return (*start, *(f"{row[name]:+.6g}" for name in numbers), f"{row['p_value']:.4g}")


def _replay_sheet(slug: str, replayed: list[Replayed]) -> Sheet:
    differing = [row for row in replayed if not row.is_identical]
    rows = [
        (str(row.period), "yes" if row.is_identical else "NO", "; ".join(_shown(row)))
        for row in replayed
    ]
    summary = f"{len(replayed)} periods computed again, " + (
        f"{len(differing)} differ" if differing else "all the same bytes"
    )
    return Sheet(
        title=f"{slug}: {summary}",
        columns=("period", "same bytes", "differences"),
        rows=rows,
        align="rll",
    )


def _shown(row: Replayed) -> list[str]:
    more = len(row.differences) - SHOWN_DIFFERENCES
    rest = [f"and {more} more"] if more > 0 else []
    return [*row.differences[:SHOWN_DIFFERENCES], *rest]


def _project(config_dir: Path) -> Project:
    """The usable part of the project; mistakes are shown and stop only what they concern."""
    from experiments_dagster.config.errors import ConfigError
    from experiments_dagster.config.project import read_project

    is_configs = (config_dir / "platform.yaml").exists()
    project, issues = read_project(config_dir.resolve().parent if is_configs else config_dir)
    if project is None:
        raise ConfigError(issues)
    for issue in issues:
        warn(f"left out: {issue}")
    return project

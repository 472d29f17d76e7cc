"""results/bandit: the shares of a bandit's next period, recorded once and ahead of it."""

import datetime as dt
import json
from dataclasses import asdict

import dagster as dg

from experiments_dagster.automation.looks_run import (
    CONFIG_CODE,
    CONTRACT_CODE,
    DAMAGED_CODE,
    TROUBLES,
    Trouble,
)
from experiments_dagster.automation.partitions import BANDITS, all_days
from experiments_dagster.bandits.allocate import allocate_next
from experiments_dagster.bandits.history import BanditChangedError
from experiments_dagster.bandits.records import Period
from experiments_dagster.config.bandit import Bandit
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.storage.errors import ContractError, StorageError


class BanditConfig(dg.Config):
    """`as_of` is a date such as 2026-01-31, meaning 00:00 local; empty means now."""

    as_of: str = ""


@dg.asset(
    key=["results", "bandit"],
    partitions_def=BANDITS,
    deps=all_days(["frames", "unit_days"], ["raw", "exposures"]),
    group_name="results",
    kinds={"numpy"},
)
def bandit(
    context: dg.AssetExecutionContext, config: BanditConfig, experiments: ExperimentsProject
) -> dg.MaterializeResult:
    """Posterior of every arm, its probability of being best, and its share of the next period."""
    project = experiments.load()
    manifest = experiments.manifest(project)
    slug = context.partition_key
    arms = project.bandits[slug]
    try:
        record = allocate_next(project, manifest, arms, _now(arms, config))
    except BanditChangedError as error:
        raise _failure(slug, CONFIG_CODE, error) from None
    except StorageError as error:
        code = CONTRACT_CODE if isinstance(error, ContractError) else DAMAGED_CODE
        raise _failure(slug, code, error) from None
    except EstimationError as error:
        return dg.MaterializeResult(
            metadata={"status": "not estimable; the earlier shares stay", "reason": error.code}
        )
    if record is None:
        return dg.MaterializeResult(metadata={"status": "the next period has its shares"})
    context.log.info(f"bandit={slug} period={record.period} cutoff={record.cutoff}")
    return dg.MaterializeResult(
        metadata={
            "period": record.period,
            "starts_on": record.starts_on,
            "cutoff": record.cutoff,
            "units": sum(row.n for row in record.arms),
            "open_windows": record.n_open,
            "shares": dg.MetadataValue.md(shares_table(record)),
        }
    )


def shares_table(record: Period) -> str:
    """The arms of a period as a Markdown table."""
    lines = ["| arm | units | mean | P(best) | share |", "| :--- | ---: | ---: | ---: | ---: |"]
    for row in record.arms:
        mean = "-" if row.mean is None else f"{row.mean:.6g}"
        numbers = f"{row.n} | {mean} | {row.probability_best:.4f} | {row.share:.4f}"
        lines.append(f"| {row.arm} | {numbers} |")
    return "\n".join(lines)


def _now(arms: Bandit, config: BanditConfig) -> dt.datetime:
    now = dt.datetime.now(dt.UTC)
    if not config.as_of:
        return now
    instant = arms.start_of_day(dt.date.fromisoformat(config.as_of))
    if instant > now:
        msg = f"as_of {config.as_of} is in the future; its rewards are not known yet"
        raise ValueError(msg)
    return instant


def _failure(slug: str, code: int, error: Exception) -> dg.Failure:
    """Fails the run and tells the command line why, and with which exit code."""
    trouble = Trouble(subject=slug, code=code, message=str(error))
    metadata = {TROUBLES: json.dumps([asdict(trouble)])}
    return dg.Failure(f"{slug}: {error}", metadata=metadata, allow_retries=False)

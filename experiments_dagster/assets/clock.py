"""As of when? The run's configuration says, else today; the clock is read only here."""

import datetime as dt

import dagster as dg

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.calendar import local_day, start_of_day


class LookConfig(dg.Config):
    """`as_of` is a date such as 2026-01-31; empty means today in the experiment's time zone."""

    as_of: str = ""


def as_of_instant(experiment: Experiment, config: LookConfig) -> dt.datetime:
    """00:00 local time of the day of the look: whole days count, the running one does not."""
    if config.as_of:
        instant = start_of_day(experiment, dt.date.fromisoformat(config.as_of))
        if instant > dt.datetime.now(dt.UTC):
            msg = f"as_of {config.as_of} is in the future; a look there could not be taken again"
            raise ValueError(msg)
        return instant
    return start_of_day(experiment, local_day(experiment, dt.datetime.now(dt.UTC)))

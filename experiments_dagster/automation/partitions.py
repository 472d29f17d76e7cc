"""Partitions: arrival days for what lands, one dynamic dimension each for what is analysed."""

from __future__ import annotations

import dagster as dg

# Far enough back for history that people still land day by day.
# Files land all day and east of UTC tomorrow has begun, so both days are partitions already.
ARRIVAL_DAYS = dg.DailyPartitionsDefinition(start_date="2015-01-01", end_offset=2)
EXPERIMENTS = dg.DynamicPartitionsDefinition(name="experiment")
INTERVENTIONS = dg.DynamicPartitionsDefinition(name="intervention")
BANDITS = dg.DynamicPartitionsDefinition(name="bandit")


def all_days(*keys: list[str]) -> list[dg.AssetDep]:
    """Dependencies of an experiment on everything that has landed so far."""
    # Explicit: the default mapping from days to a dynamic dimension does not load.
    return [dg.AssetDep(key, partition_mapping=dg.AllPartitionMapping()) for key in keys]

"""Partitions, jobs, schedules and sensors; decisions lie in pure functions."""

import warnings

# Dagster 1.13 warns about a parameter that its own sensor decorator passes, whoever calls it.
warnings.filterwarnings("ignore", message="Parameter `owners` of initializer `SensorDefinition")

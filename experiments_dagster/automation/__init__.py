"""Partitions, jobs, schedules and sensors; decisions lie in pure functions."""

"""Reproducible looks at online experiments, from event tables to verdicts."""

__version__ = "0.1.0"

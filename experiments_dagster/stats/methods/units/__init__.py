"""Estimators that need one row per randomisation unit."""

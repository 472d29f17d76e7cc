"""Estimators that need only the moments of each arm."""

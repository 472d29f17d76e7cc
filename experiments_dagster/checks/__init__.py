"""Specs and results of asset checks."""

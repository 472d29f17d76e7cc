"""Verbs of designs without randomisation, on files."""

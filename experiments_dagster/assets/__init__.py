"""Thin assets: read, call one function, write, report."""

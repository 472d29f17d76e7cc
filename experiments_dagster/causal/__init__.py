"""Causal methods without randomisation: arrays in, records out; imports numpy and scipy only."""

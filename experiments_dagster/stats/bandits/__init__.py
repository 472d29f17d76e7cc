"""Allocation that learns: Thompson shares, estimates from adaptive data, regret."""

"""Bayesian posteriors of arms and effects, and what follows from them for a decision."""

"""Estimators by the shape of their input: moments of an arm, or one row per unit."""

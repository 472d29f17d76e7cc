"""Methods whose input is units: one row per unit."""

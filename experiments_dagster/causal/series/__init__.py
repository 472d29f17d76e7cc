"""Methods whose input is time series: one row per step."""

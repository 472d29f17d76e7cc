"""Configuration: spec, resolve, hash."""

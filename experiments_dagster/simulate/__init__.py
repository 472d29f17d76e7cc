"""Event logs with known truth, and the demo's real one."""

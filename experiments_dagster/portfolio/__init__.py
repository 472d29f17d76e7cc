"""All experiments of a project together: what was decided, what it is worth, what overlaps."""

"""Design and health of the assignment: sample ratio, balance, units in two arms."""

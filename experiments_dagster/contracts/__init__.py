"""pandera contracts, one per table."""

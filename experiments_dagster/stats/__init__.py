"""Pure statistics: records in, records out; imports numpy and scipy only."""

"""One module per result asset."""

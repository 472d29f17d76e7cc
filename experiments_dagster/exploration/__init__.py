"""What is in the data before anybody compares arms: summaries that are no look."""

"""Bandits: from landed exposures and rewards to the shares of the next period."""

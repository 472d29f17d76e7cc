"""Servers: what answers over the network."""

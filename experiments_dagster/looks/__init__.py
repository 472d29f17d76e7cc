"""Looks: plan, estimates, boundaries, checks, verdict, record."""

"""Alerts: what happened, a durable outbox, the channels and their delivery.

Standard library and pydantic only; nothing here knows Dagster.
"""

"""Compose and validate configurations, and build the objects that they describe."""

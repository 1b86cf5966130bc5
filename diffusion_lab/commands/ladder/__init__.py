"""Train a ladder of configurations, one change at a time, over several seeds."""

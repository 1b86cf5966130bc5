"""Measure quality against NFE over samplers and numbers of steps."""

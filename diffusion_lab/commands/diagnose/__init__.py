"""Measure where a model errs, and whether it memorises."""

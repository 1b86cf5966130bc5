"""Makers of the documents and figures under docs/."""

"""Compare evaluated runs."""

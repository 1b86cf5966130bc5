"""Points in the plane, drawn from distributions whose density is known."""

"""Train and evaluate runs that differ by one change each: `python scripts/ladder.py`."""

from diffusion_lab.cli import ladder

if __name__ == "__main__":
    ladder()

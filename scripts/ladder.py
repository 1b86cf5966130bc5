"""Train and evaluate runs one change apart: `python scripts/ladder.py`."""

from diffusion_lab.cli import ladder

if __name__ == "__main__":
    ladder()

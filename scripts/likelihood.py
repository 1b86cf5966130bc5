"""Compute a run's bits per dimension: `python scripts/likelihood.py run=<run folder>`."""

from diffusion_lab.cli import likelihood

if __name__ == "__main__":
    likelihood()

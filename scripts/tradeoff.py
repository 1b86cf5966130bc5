"""Measure sample quality and cost of samplers: `python scripts/tradeoff.py run=<run folder>`."""

from diffusion_lab.cli import tradeoff

if __name__ == "__main__":
    tradeoff()

"""Measure speed and memory against a plain PyTorch baseline: `python scripts/benchmark.py`."""

from diffusion_lab.cli import benchmark

if __name__ == "__main__":
    benchmark()

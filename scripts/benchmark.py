"""Speed and memory against the plain way of doing the same: `python scripts/benchmark.py`."""

from diffusion_lab.cli import benchmark

if __name__ == "__main__":
    benchmark()

"""Compare evaluated runs: `python scripts/compare.py runs=<run>,<run>`."""

from diffusion_lab.cli import compare

if __name__ == "__main__":
    compare()

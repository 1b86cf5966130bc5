"""Evaluate samples of a trained run: `python scripts/evaluate.py run=<run folder>`."""

from diffusion_lab.cli import evaluate

if __name__ == "__main__":
    evaluate()

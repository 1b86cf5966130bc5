"""Sample images from a trained run: `python scripts/sample.py run=<run folder>`."""

from diffusion_lab.cli import sample

if __name__ == "__main__":
    sample()

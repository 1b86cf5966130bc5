"""What a run learned: `python scripts/diagnose.py run=<run folder>`."""

from diffusion_lab.cli import diagnose

if __name__ == "__main__":
    diagnose()

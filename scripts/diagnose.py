"""Diagnose a run by noise level and for memorisation: `python scripts/diagnose.py run=<run>`."""

from diffusion_lab.cli import diagnose

if __name__ == "__main__":
    diagnose()

"""Describe a configuration without training: `python scripts/explain.py model=flow`."""

from diffusion_lab.cli import explain

if __name__ == "__main__":
    explain()

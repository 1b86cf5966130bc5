"""What a combination means: `python scripts/explain.py model=flow prediction=v_prediction`."""

from diffusion_lab.cli import explain

if __name__ == "__main__":
    explain()

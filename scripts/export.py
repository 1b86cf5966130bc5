"""Export a run to diffusers: `python scripts/export.py run=<run folder> out=<new folder>`."""

from diffusion_lab.cli import export

if __name__ == "__main__":
    export()

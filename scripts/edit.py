"""Edit images with a trained run: `python scripts/edit.py run=<run folder> edit=inpaint`."""

from diffusion_lab.cli import edit

if __name__ == "__main__":
    edit()

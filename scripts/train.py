"""Train a model: `python scripts/train.py model=basic_unet trainer.accelerator=gpu`."""

from diffusion_lab.cli import train

if __name__ == "__main__":
    train()

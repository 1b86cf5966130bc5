"""Train a feature extractor: `python scripts/train_extractor.py data=kmnist version=kmnist_v1`."""

from diffusion_lab.cli import train_extractor

if __name__ == "__main__":
    train_extractor()

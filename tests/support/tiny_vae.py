"""A VAE of diffusers with a few thousand weights, as users have a large one."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL


def save_vae(folder: Path, channels: int = 1, seed: int = 0, **more: object) -> AutoencoderKL:
    """Make a VAE with one latent for 2 x 2 pixels, and save it in a folder."""
    settings: dict[str, object] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (4, 8),
        "norm_num_groups": 2,
        "latent_channels": 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKL(in_channels=channels, out_channels=channels, **(settings | more))
    vae.eval().save_pretrained(folder)
    return vae

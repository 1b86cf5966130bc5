"""Conversion between uint8 pixels and standardised latents, in place of a value range."""

import logging
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_lab.data.latents.vae import VAE
from diffusion_lab.data.value_range import ValueRange

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

log = logging.getLogger(__name__)

_PIXELS = 2**20
"""Pixels that the VAE gets at once: 16 images of 256 x 256."""


class LatentDecoder(ValueRange):
    """Mapping between uint8 pixels and the latents that the network is trained on.

    Latents are the mean of the VAE's posterior, standardised: z = (mean - `mean`) / `std`, where
    `mean` and `std` are those of each channel over the training images. The VAE computes in float32
    and moves to the first accelerator whose values it gets.

    Args:
        vae: see `find_vae`.
        statistics: mean and standard deviation of each channel, (C,) each; they may be set later.

    """

    def __init__(
        self, vae: VAE, statistics: tuple[Sequence[float], Sequence[float]] | None = None
    ) -> None:
        self.name, self.low, self.high = "latents", -math.inf, math.inf
        self.vae = vae
        self._pixels = ValueRange("minus_one_one")  # the range of all VAEs of diffusers
        if statistics is not None:
            self.set_statistics(*statistics)

    def __repr__(self) -> str:
        """Return the name of the VAE."""
        return f"LatentDecoder({self.vae.name!r})"

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and standard deviation of each channel, (C,)."""
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std)
        )

    @cached_property
    def model(self) -> "AutoencoderKL":
        """The VAE with its weights. Raises UserError if they cannot be loaded."""
        return self.vae.load()

    def images_at_once(self, height: int, width: int) -> int:
        """Return the number of images of this size that the VAE gets at once."""
        return max(1, _PIXELS // (height * width))

    def means(self, pixels: Tensor) -> Tensor:
        """Encode uint8 pixels (..., C, H, W) to the mean of the posterior, float32, not scaled."""

        def encode(images: Tensor) -> Tensor:
            return self.model.encode(self._pixels.encode(images)).latent_dist.mean

        return self._in_pieces(encode, pixels, 1)

    def standardise(self, latents: Tensor) -> Tensor:
        """Map means of the posterior (..., C, H, W) to float32 values of the network."""
        return (latents.float() - self.mean.to(latents.device)) / self.std.to(latents.device)

    def encode(self, data: Tensor) -> Tensor:
        """Map uint8 pixels (..., C, H, W) to standardised latents, float32, on the same device."""
        return self.standardise(self.means(data))

    def to_unit(self, values: Tensor) -> Tensor:
        """Decode standardised latents (..., C, H, W) to images in [0, 1], float32."""

        def decode(latents: Tensor) -> Tensor:
            return self._pixels.to_unit(self.model.decode(latents).sample)

        latents = values.float() * self.std.to(values.device) + self.mean.to(values.device)
        return self._in_pieces(decode, latents, self.vae.factor)

    @torch.no_grad()
    def _in_pieces(self, work: Callable[[Tensor], Tensor], x: Tensor, factor: int) -> Tensor:
        """Apply the VAE to (..., C, H, W) in batches, on its device; return to that of `x`.

        An entry of `x` stands for `factor` x `factor` pixels.
        """
        if x.device.type != "cpu" and self.model.device != x.device:
            self.model.to(x.device)
        device = self.model.device
        flat = x.flatten(0, -4) if x.ndim > 3 else x[None]
        height, width = (factor * side for side in x.shape[-2:])
        with torch.autocast(device.type, enabled=False):
            parts = [
                work(part.to(device)).to(x.device)
                for part in flat.split(self.images_at_once(height, width))
            ]
        done = torch.cat(parts)
        return done.view(*x.shape[:-3], *done.shape[1:])

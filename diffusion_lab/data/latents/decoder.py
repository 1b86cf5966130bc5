"""Conversion between uint8 pixels and standardised latents, in place of a value range."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.data.latents.vae import VAE, find_vae
from diffusion_lab.data.shape import image_shape
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.errors import UserError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_PIXELS = 2**20
"""Pixels that the VAE gets at once: 16 images of 256 x 256."""


class LatentDecoder(ValueRange):
    """Mapping between uint8 pixels and the latents that the network is trained on.

    Latents are the mean of the VAE's posterior, standardised: z = (mean - `mean`) / `std`, where
    `mean` and `std` are those of each channel over the training images. The VAE computes in float32
    and moves to the first accelerator whose values it gets.

    Args:
        vae: see `find_vae`.

    The statistics are set by `set_statistics` or `use_record`, before any conversion.

    """

    def __init__(self, vae: VAE) -> None:
        self.name, self.low, self.high = "latents", -math.inf, math.inf
        self.vae = vae
        self.statistics: dict[str, list[float]] | None = None
        self._pixels = ValueRange("minus_one_one")  # the range of all VAEs of diffusers

    @property
    def kind(self) -> str:
        """What the network's values are, for messages."""
        return f"latents of {self.vae.name}"

    def __repr__(self) -> str:
        """Return the name of the VAE."""
        return f"LatentDecoder({self.vae.name!r})"

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and standard deviation of each channel, (C,)."""
        self.statistics = {"mean": list(mean), "std": list(std)}
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def record(self) -> dict[str, Any]:
        """Return the hash of the VAE, mean and std, for `use_record`."""
        return {"latents": {"vae_sha256": self.vae.sha256, **(self.statistics or {})}}

    def use_record(self, record: Mapping[str, Any]) -> None:
        """Take the statistics of a checkpoint's data; UserError if its VAE had other weights."""
        saved = record["latents"]
        if saved["vae_sha256"] != self.vae.sha256:
            raise UserError(
                f"latents={self.vae.name} has other weights (sha256 {self.vae.sha256[:8]}) than "
                f"the VAE of the run ({saved['vae_sha256'][:8]}): put that one back"
            )
        self.set_statistics(saved["mean"], saved["std"])

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of latents; UserError for images that the VAE cannot take."""
        return self.vae.latent_shape(image_shape)

    def check_flip(self) -> None:
        """Raise UserError: mirrored latents are not the latents of the mirrored image."""
        raise UserError(
            f"data.flip=true with latents={self.vae.name}: the images are encoded once, and "
            "mirrored latents are not the latents of a mirrored image: leave out data.flip=, or "
            "put mirrored copies into the data set"
        )

    def known(self, pixels: Tensor) -> Tensor:
        """Map a mask of pixels, bool (H, W): a latent is known if all of its pixels are."""
        unknown = (~pixels)[None].float()
        return F.max_pool2d(unknown, self.vae.factor)[0] == 0

    @cached_property
    def model(self) -> "AutoencoderKL":
        """The VAE with its weights. Raises UserError if they cannot be loaded."""
        return self.vae.load()

    def prepare(self, device: torch.device) -> None:
        """Load the VAE, to compute on this device. Raises UserError if it cannot be loaded."""
        self.model.to(device)

    def images_at_once(self, height: int, width: int) -> int:
        """Return the number of images of this size that the VAE gets at once."""
        return max(1, _PIXELS // (height * width))

    def means(self, pixels: Tensor) -> Tensor:
        """Encode uint8 pixels (..., C, H, W) to the mean of the posterior, float32, not scaled."""

        def encode(images: Tensor) -> Tensor:
            return self.model.encode(self._pixels.encode(images)).latent_dist.mean

        return self._in_pieces(encode, pixels, 1)

    def encode(self, data: Tensor) -> Tensor:
        """Map uint8 pixels, or their stored latents, to standardised latents, (..., C, H, W).

        The result is float32, on the device of `data`.
        """
        means = data.float() if data.is_floating_point() else self.means(data)
        mean, std = self._scale(means.device)
        return (means - mean) / std

    def to_unit(self, values: Tensor) -> Tensor:
        """Decode standardised latents (..., C, H, W) to images in [0, 1], on the same device."""

        def decode(latents: Tensor) -> Tensor:
            return self._pixels.to_unit(self.model.decode(latents).sample)

        mean, std = self._scale(values.device)
        return self._in_pieces(decode, values.float() * std + mean, self.vae.factor)

    def _scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and std, (C, 1, 1) each; kept on the device, as every batch needs them."""
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self._mean, self._std

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


@contextmanager
def sizes_of_latents(data: Mapping[str, Any]) -> Iterator[None]:
    """Add to a UserError of the network that it gets latents, if the options of `data` say so."""
    try:
        yield
    except UserError as error:
        if not data.get("latents"):
            raise
        channels, height, width = range_of(data).shape(image_shape(data))
        raise UserError(
            f"{error} (the network gets the latents of latents={data['latents']}, {channels} x "
            f"{height} x {width}, whose sides follow from data.image_size={data['image_size']})"
        ) from error


def range_of(data: Mapping[str, Any]) -> ValueRange:
    """Return the value range of the options of a data set: a LatentDecoder with `latents`.

    Raises UserError for an unknown range, or if the VAE is not found.
    """
    pixels = ValueRange(data.get("value_range", "zero_one"))
    if not (name := data.get("latents")):
        return pixels
    pixels.check_pixels(f"latents={name}", "leave out latents=")
    return LatentDecoder(find_vae(name))

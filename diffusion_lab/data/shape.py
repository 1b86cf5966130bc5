"""Shape of the images, from data.channels and data.image_size."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_lab.errors import UserError
from diffusion_lab.networks.image_size import height_and_width

ImageSize = int | Sequence[int]
"""Side of square images, or (height, width)."""


def image_shape(data: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of an image from the options under data=."""
    return int(data["channels"]), *height_and_width(data["image_size"])


def check_channels(channels: int) -> None:
    """Raise UserError unless `channels` is a whole number of at least 1."""
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise UserError(
            f"data.channels={channels}: expected a whole number, at least 1, for example "
            "data.channels=3"
        )

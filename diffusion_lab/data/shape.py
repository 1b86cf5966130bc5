"""Shape of the images, from data.channels and data.image_size."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_lab.errors import UserError

ImageSize = int | Sequence[int]
"""Side of square images, or (height, width)."""


def sides(image_size: ImageSize) -> tuple[int, int]:
    """Return (height, width) in pixels.

    Raises UserError unless the size is a whole number above 0, or a list of two.
    """
    pair = [image_size, image_size] if isinstance(image_size, int) else image_size
    whole = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
    if not whole or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in pair):
        raise UserError(
            f"data.image_size={image_size}: expected a whole number above 0, or height and width, "
            "for example data.image_size=32 or data.image_size=[24,32]"
        )
    height, width = pair
    return int(height), int(width)


def image_shape(data: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of an image from the options of a data set."""
    return int(data["channels"]), *sides(data["image_size"])


def check_channels(channels: int) -> None:
    """Raise UserError unless images have a whole number of channels, at least 1."""
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise UserError(
            f"data.channels={channels}: expected a whole number, at least 1, for example "
            "data.channels=3"
        )

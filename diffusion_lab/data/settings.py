"""Checks of the image settings before any data is loaded."""

from collections.abc import Mapping

from diffusion_lab.data.dataset import check_choice
from diffusion_lab.data.loader import check_whole_number
from diffusion_lab.data.split import check_padding
from diffusion_lab.errors import UserError


def check_images(
    name: str, source: str, sizes: Mapping[str, int], channels: int, image_size: int | None
) -> None:
    """Raise UserError for settings that the built-in data set `name` does not support.

    `sizes` maps num_images and num_test_images to their values; it holds only those that are set.
    """
    check_channels(channels)
    if name == "fake":
        for setting, size in sizes.items():
            check_whole_number(setting, size, least=1)
        if image_size is not None:
            check_whole_number("image_size", image_size, least=4)
    else:
        check_choice(name, source)
        check_published_settings(name, sizes, channels)
        check_padding(image_size)


def check_channels(channels: int) -> None:
    """Raise UserError unless images have 1 or 3 channels."""
    if channels not in (1, 3) or isinstance(channels, bool):
        raise UserError(
            f"data.channels={channels}: expected 1 (gray) or 3 (RGB), for example data.channels=3"
        )


def check_published_settings(name: str, sizes: Mapping[str, int], channels: int) -> None:
    """Raise UserError for settings that only synthetic images support."""
    if sizes:
        raise UserError(
            f"{', '.join(sizes)} can only be set for synthetic images: "
            f"leave out data.{next(iter(sizes))}=, or use data=fake"
        )
    if channels != 1:
        raise UserError(
            f"data.channels={channels}: the images of {name} have 1 channel; expected "
            "data.channels=1, or another data set, for example data=fake"
        )

"""Decode picture files to uint8 (C, H, W): orientation, bit depth, colours, size."""

import errno
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from diffusion_lab.errors import UserError, reason_of, unknown_name

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".png", ".apng", ".webp", ".avif"),
    *(".tif", ".tiff", ".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".npy"),
)
"""Files that count as pictures; all others are ignored. A fixed list, because what Pillow can
read depends on how it was built."""
RESIZE = ("crop", "pad", "stretch")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_FILTER = Image.Resampling.BICUBIC
"""Pillow's filters are antialiased; Parmar et al. 2022 (arXiv 2104.11222) recommend bicubic."""


class Unreadable(Exception):
    """Raised for a file that cannot be used as a picture; the message is the reason."""


class WrongSize(Exception):
    """Raised for a picture of another size without a rule for resizing; the message is its size."""


Fault = Unreadable | WrongSize | OSError
"""Why a picture could not be decoded; an OSError says nothing about its content."""


@dataclass(frozen=True)
class Format:
    """Format that every picture is converted to.

    Args:
        height, width: size in pixels.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); any number for .npy files.
        resize: crop (scale the shorter side, cut the middle out), pad (scale the longer side, fill
            with `background`) or stretch. None does not resize: another size is an error.
        background: colour behind transparent pixels and of the padding, a name or #rrggbb.

    """

    height: int
    width: int
    channels: int
    resize: str | None = None
    background: str = "white"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of a picture."""
        return self.channels, self.height, self.width

    def check(self) -> None:
        """Raise UserError for an unknown `resize` or an unknown `background`."""
        if self.resize is not None and self.resize not in RESIZE:
            raise UserError(unknown_name("data.resize", self.resize, RESIZE))
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise UserError(
                f"data.background={self.background}: expected a colour, for example white or "
                "'#808080'"
            ) from error


def decode(root: Path | zipfile.ZipFile, name: str, wanted: Format) -> np.ndarray:
    """Decode a picture of a folder or an open zip file -> uint8 (C, H, W).

    Raises Unreadable for a file that is damaged or of an unsupported kind, WrongSize for a picture
    of another size if `wanted.resize` is None, and OSError for a file that the system does not let
    read.
    """
    try:
        opened = root.open(name) if isinstance(root, zipfile.ZipFile) else (root / name).open("rb")
        with opened as file, warnings.catch_warnings():
            if name.lower().endswith(".npy"):
                return _fitted_array(np.load(file, allow_pickle=False), wanted)
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return to_array(image, wanted)
    except (Unreadable, WrongSize):
        raise
    except UnidentifiedImageError as error:
        raise Unreadable("the file is empty, damaged, or of an unknown kind") from error
    except Exception as error:  # Pillow, NumPy and zipfile raise many types for damaged files
        if is_of_the_system(error):
            raise
        raise Unreadable(reason_of(error)) from error


def is_of_the_system(error: Exception) -> bool:
    """Return True for an error of the disk or of the memory, which says nothing about the file."""
    if isinstance(error, OSError):  # damaged files lead Pillow to places outside of them
        return error.errno not in (None, errno.EINVAL, errno.EOVERFLOW)
    return isinstance(error, MemoryError)


def to_array(image: Image.Image, wanted: Format) -> np.ndarray:
    """Convert an open picture -> uint8 (C, H, W). Raises Unreadable and WrongSize."""
    if wanted.channels not in MODES:
        raise Unreadable(
            f"data.channels={wanted.channels}: expected 1, 3 or 4, except for .npy files"
        )
    image = ImageOps.exif_transpose(image)
    image = _resized(_coloured(_in_eight_bits(image), wanted), wanted)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits per pixel to 8, because Pillow's own conversion clips at 255."""
    if image.mode == "F":
        raise Unreadable("the pixels are floating-point; expected 8 or 16 bits per channel")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise Unreadable("the pixels have 32 bits; expected 8 or 16 bits per channel")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def _coloured(image: Image.Image, wanted: Format) -> Image.Image:
    """Convert a picture to the wanted channels, with the background behind transparent pixels."""
    mode = MODES[wanted.channels]
    if mode != "RGBA" and image.has_transparency_data:
        behind = Image.new("RGBA", image.size, wanted.background)
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _resized(image: Image.Image, wanted: Format) -> Image.Image:
    size = wanted.width, wanted.height
    if image.size == size:
        return image
    if wanted.resize == "crop":
        return ImageOps.fit(image, size, _FILTER)
    if wanted.resize == "pad":
        colour = ImageColor.getcolor(wanted.background, image.mode)
        return ImageOps.pad(image, size, _FILTER, color=colour)
    if wanted.resize == "stretch":
        return image.resize(size, _FILTER)
    raise WrongSize(f"{image.height} x {image.width} pixels")


def _fitted_array(pixels: Any, wanted: Format) -> np.ndarray:
    """Check the shape and type of an array (H, W) or (H, W, C) of a .npy file -> (C, H, W)."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise Unreadable(
            f"the array is {pixels.dtype} {pixels.shape}; expected uint8 (H, W) or (H, W, C)"
        )
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if len(pixels) != wanted.channels:
        raise Unreadable(f"the array has {len(pixels)} channels; expected {wanted.channels}")
    if pixels.shape != wanted.shape:
        raise WrongSize(f"{pixels.shape[1]} x {pixels.shape[2]} pixels")
    return np.ascontiguousarray(pixels)

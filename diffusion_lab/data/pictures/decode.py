"""One picture of any kind -> uint8 (C, H, W): orientation, bit depth, colours, size."""

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
"""Files that count as pictures; all others are passed over. A fixed list, because what Pillow can
read depends on how it was built."""
RESIZE = ("crop", "pad", "stretch")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_FILTER = Image.Resampling.BICUBIC
"""Pillow's filters are antialiased; Parmar et al. 2022 (arXiv 2104.11222) recommend bicubic."""


class Unreadable(Exception):
    """A file that is no picture that can be used; the message is the reason."""


class WrongSize(Exception):
    """A picture of another size than the data set's, where no rule says how to resize it."""


@dataclass(frozen=True)
class Format:
    """What every picture is made into.

    Args:
        height, width: size in pixels.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); any number for .npy files, which hold them.
        resize: crop (scale the shorter side, cut the middle out), pad (scale the longer side, fill
            with `background`), stretch, or None: pictures of another size are an error.
        background: colour behind transparent pixels, and of the padding: a name or #rrggbb.

    """

    height: int
    width: int
    channels: int
    resize: str | None = None
    background: str = "white"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width

    def check(self) -> None:
        """Raise UserError for an unknown rule or colour."""
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

    Raises Unreadable for a file that is damaged or of an unsupported kind, WrongSize, and OSError
    for one that the system does not let read.
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
        raise Unreadable("empty, damaged, or of an unknown kind") from error
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
        raise Unreadable(f"a picture has 1, 3 or 4 channels, not {wanted.channels}: use .npy files")
    image = ImageOps.exif_transpose(image)
    image = _resized(_coloured(_in_eight_bits(image), wanted), wanted)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits per pixel to 8; Pillow's own conversion cuts off at 255."""
    if image.mode == "F":
        raise Unreadable("it holds floating-point pixels; expected 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise Unreadable("it holds 32-bit pixels; expected 8 or 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def _coloured(image: Image.Image, wanted: Format) -> Image.Image:
    """Convert to the wanted channels, transparent pixels in front of the background."""
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
    raise WrongSize(f"{image.height} x {image.width}")


def _fitted_array(pixels: Any, wanted: Format) -> np.ndarray:
    """Check an array (H, W) or (H, W, C) -> (C, H, W)."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise Unreadable(f"an array {pixels.dtype} {pixels.shape}; expected uint8 (H, W, C)")
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if len(pixels) != wanted.channels:
        raise Unreadable(f"{len(pixels)} channels; expected {wanted.channels}")
    if pixels.shape != wanted.shape:
        raise WrongSize(f"{pixels.shape[1]} x {pixels.shape[2]}")
    return np.ascontiguousarray(pixels)

"""Pictures as files. Every file appears whole or not at all, and equal pictures are equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from diffusion_lab.figures.grid import grid_tensor, pixels
from diffusion_lab.system.atomic import replacing

READABLE_WIDTH = 640
"""Grids of pixels are enlarged by the largest whole factor that keeps them within this width."""
READABLE_HEIGHT = 1280
"""And within this height, so that a narrow grid of many rows does not become a long strip."""
MAX_FACTOR = 8


def save_grid(images: Tensor, path: str | Path, nrow: int = 8) -> Path:
    """Write a grid of images as a PNG of the pixels themselves, without axes or resampling.

    Each pixel becomes a square of whole size, so that 28x28 digits are readable and stay exact.

    Args:
        images: (N, C, H, W), C = 1 (written as gray) or 3 (RGB), in [0, 1], clipped.
        path: the file; missing folders are made.
        nrow: images in a row.

    Returns:
        The path.

    Raises:
        ValueError: as for `grid_tensor`.

    """
    buffer = BytesIO()
    _enlarged(Image.fromarray(pixels(grid_tensor(images, nrow)))).save(buffer, format="PNG")
    return _write(buffer.getvalue(), path)


def save_gif(
    frames: Sequence[Tensor],
    path: str | Path,
    nrow: int = 8,
    fps: float = 10.0,
    hold: float = 2.0,
) -> Path:
    """Write an animation, such as a grid of samples on its way from noise; it loops forever.

    Args:
        frames: tensors (N, C, H, W) of one shape, C = 1 or 3, in [0, 1], clipped. Gray stays exact;
            colours are reduced to the 256 a GIF frame can hold. Equal frames in a row are stored
            once and shown as long as all of them.
        path: the file; missing folders are made.
        nrow: images in a row.
        fps: frames a second. A GIF counts in hundredths of a second, so it is rounded to that.
        hold: seconds the last frame stays.

    Returns:
        The path.

    Raises:
        ValueError: no frames, frames of different shapes, fps outside (0, 50] (viewers slow down
            what is faster), hold outside (0, 600], or as for `grid_tensor`.

    """
    if not frames:
        raise ValueError("an animation needs at least one frame")
    shapes = {tuple(frame.shape) for frame in frames}
    if len(shapes) > 1:
        raise ValueError(f"the frames of an animation have one shape, got {sorted(shapes)}")
    if not 0 < fps <= 50:
        raise ValueError(f"fps must lie in (0, 50], got {fps}")
    if not 0 < hold <= 600:
        raise ValueError(f"hold must lie in (0, 600] seconds, got {hold}")

    pictures = [_enlarged(_palette(Image.fromarray(pixels(grid_tensor(f, nrow))))) for f in frames]
    durations = [_milliseconds(1 / fps)] * (len(pictures) - 1) + [_milliseconds(hold)]
    buffer = BytesIO()
    pictures[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
    )
    return _write(buffer.getvalue(), path)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as a PNG at the figure's own resolution.

    Args:
        figure: any matplotlib figure.
        path: the file; missing folders are made.

    Returns:
        The path.

    """
    return _write(_drawn(figure).getvalue(), path)


def _drawn(figure: Figure) -> BytesIO:
    """The figure as a PNG in memory."""
    buffer = BytesIO()
    # Without the Software entry the bytes do not change with matplotlib's version number alone.
    figure.savefig(buffer, format="png", dpi="figure", metadata={"Software": None})
    return buffer


def _enlarged(image: Image.Image) -> Image.Image:
    factor = min(READABLE_WIDTH // image.width, READABLE_HEIGHT // image.height, MAX_FACTOR)
    factor = max(factor, 1)
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.NEAREST)


def _palette(image: Image.Image) -> Image.Image:
    """At most 256 colours: gray has no more, colours are reduced to the ones that fit best."""
    return image if image.mode == "L" else image.quantize(256)


def _milliseconds(seconds: float) -> int:
    """Whole hundredths of a second, at least one, in the milliseconds that Pillow expects."""
    return max(round(seconds * 100), 1) * 10


def _write(content: bytes, path: str | Path) -> Path:
    with replacing(path) as part:
        part.write_bytes(content)
    return Path(path)

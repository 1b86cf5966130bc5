"""Write figures as PNG and GIF files, atomically; equal figures give equal bytes."""

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
"""Grids are enlarged by the largest integer factor that keeps them within this width (pixels)."""
READABLE_HEIGHT = 1280
"""Limit of the height (pixels), so that a narrow grid of many rows is not a long strip."""
MAX_FACTOR = 8


def save_grid(images: Tensor, path: str | Path, nrow: int = 8) -> Path:
    """Write a grid of images as a PNG, without axes or resampling.

    Small images are enlarged by an integer factor, so that 28x28 digits are readable and exact.

    Args:
        images: (N, C, H, W), C = 1 (written as gray) or 3 (RGB), in [0, 1], clipped.
        path: the file; missing folders are created.
        nrow: images per row.

    Returns:
        The path.

    Raises:
        ValueError: for images that are not (N, C, H, W), no images, or nrow < 1.

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
    """Write an animated GIF that loops forever, such as a grid of samples while denoising.

    Args:
        frames: tensors (N, C, H, W) of one shape, C = 1 or 3, in [0, 1], clipped. Gray levels are
            exact; colours are reduced to 256 per frame, the limit of GIF. Consecutive equal frames
            are stored once, with their total duration.
        path: the file; missing folders are created.
        nrow: images per row.
        fps: frames per second; durations are rounded to hundredths of a second, the GIF's unit.
        hold: duration of the last frame in seconds.

    Returns:
        The path.

    Raises:
        ValueError: for no frames, frames that are not (N, C, H, W) of one shape, nrow < 1, fps
            outside (0, 50] (viewers slow down faster animations), or hold outside (0, 600].

    """
    if not frames:
        raise ValueError("expected at least one frame, got none")
    shapes = {tuple(frame.shape) for frame in frames}
    if len(shapes) > 1:
        raise ValueError(f"expected frames of one shape, got {sorted(shapes)}")
    if not 0 < fps <= 50:
        raise ValueError(f"expected fps in (0, 50], got {fps}")
    if not 0 < hold <= 600:
        raise ValueError(f"expected hold in (0, 600] seconds, got {hold}")

    images = [_enlarged(_palette(Image.fromarray(pixels(grid_tensor(f, nrow))))) for f in frames]
    durations = [_milliseconds(1 / fps)] * (len(images) - 1) + [_milliseconds(hold)]
    buffer = BytesIO()
    images[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
    )
    return _write(buffer.getvalue(), path)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as a PNG at the figure's own resolution.

    Args:
        figure: any matplotlib figure.
        path: the file; missing folders are created.

    Returns:
        The path.

    """
    return _write(_as_png(figure).getvalue(), path)


def _as_png(figure: Figure) -> BytesIO:
    """Render a figure as a PNG in memory."""
    buffer = BytesIO()
    # without the Software entry, the bytes do not depend on matplotlib's version number
    figure.savefig(buffer, format="png", dpi="figure", metadata={"Software": None})
    return buffer


def _enlarged(image: Image.Image) -> Image.Image:
    factor = min(READABLE_WIDTH // image.width, READABLE_HEIGHT // image.height, MAX_FACTOR)
    factor = max(factor, 1)
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.NEAREST)


def _palette(image: Image.Image) -> Image.Image:
    """Reduce a colour image to a palette of 256 colours; return a gray image unchanged."""
    return image if image.mode == "L" else image.quantize(256)


def _milliseconds(seconds: float) -> int:
    """Return a duration in milliseconds, rounded to hundredths of a second and at least 10."""
    return max(round(seconds * 100), 1) * 10


def _write(content: bytes, path: str | Path) -> Path:
    with replacing(path) as part:
        part.write_bytes(content)
    return Path(path)

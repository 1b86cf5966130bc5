"""Common style of all figures: sizes, colours, axes and images.

Styles are set on the objects, not in rcParams, which are shared with the caller and all threads.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor

from diffusion_lab.figures.grid import pixels

DPI = 150
WIDTH = 8.0
"""Width of a figure in inches: 10 point text is readable where the figure is 900 pixels wide."""
TITLE_SIZE = 12.0
TEXT_SIZE = 10.0
SMALL_SIZE = 9.0

INK = "#222222"
MUTED = "#666666"
FAINT = "#dddddd"
PALE = "#b3c8e1"
COLORS = ("#1f5fa8", "#d1622b", "#3b8a5a", "#7a4fa3", "#a33b52", "#6b6b2f")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure of width x height inches, independent of pyplot."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def whole_scale(available: float, pixels_wide: int, largest: int = 8) -> float:
    """Return the scale of an image, in screen pixels per image pixel.

    The scale is an integer up to `largest`, so that all image pixels are equally large. Only an
    image wider than `available` screen pixels has a scale below 1.
    """
    whole = int(available // pixels_wide)
    return float(min(whole, largest)) if whole >= 1 else available / pixels_wide


def text_width(text: str, size: float) -> float:
    """Return the width of a text's longest line in inches, plus 5 %; `size` is in points.

    Letters aligned to screen pixels are up to 5 % wider than their outlines.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    points = (TextPath((0, 0), line, size=size).get_extents().x1 for line in lines)
    return 1.05 * float(max(points, default=0.0)) / 72


def show_image(ax: Axes, image: Tensor, scale: float) -> None:
    """Fill the axes with an image (C, H, W) in [0, 1] and hide the axes.

    `scale` is the size of an image pixel in screen pixels. An image with scale < 1 is antialiased.
    """
    ax.imshow(
        # gray as three equal channels: a colour map would round some gray levels
        pixels(image.expand(3, -1, -1)),
        aspect="auto",
        # enlarged pixels stay squares; a shrunk image needs averaging against aliasing
        interpolation="nearest" if scale >= 1 else "antialiased",
    )
    ax.set_axis_off()


def style_plot(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Label the axes of a plot, hide its top and right spines, and draw a faint grid."""
    ax.set_xlabel(xlabel, fontsize=TEXT_SIZE, color=INK)
    ax.set_ylabel(ylabel, fontsize=TEXT_SIZE, color=INK)
    ax.tick_params(labelsize=SMALL_SIZE, colors=MUTED, labelcolor=INK, length=3)
    ax.grid(True, color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(MUTED)


def plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers at 1, 2 and 5 of each decade."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())

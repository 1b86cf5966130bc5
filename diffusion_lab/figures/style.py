"""What all figures have in common: sizes, colours, and how a plot or an image looks.

Everything is set on the objects, never in rcParams: those belong to the caller and to all threads.
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
"""Inches. With 10 point text it stays readable where a page shows the figure 900 pixels wide."""
TITLE_SIZE = 12.0
TEXT_SIZE = 10.0
SMALL_SIZE = 9.0

INK = "#222222"
MUTED = "#666666"
FAINT = "#dddddd"
PALE = "#b3c8e1"
COLORS = ("#1f5fa8", "#d1622b", "#3b8a5a", "#7a4fa3", "#a33b52", "#6b6b2f")


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure, width x height inches, that belongs to no window and no pyplot."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def whole_scale(available: float, pixels_wide: int, largest: int = 8) -> float:
    """Screen pixels per image pixel: a whole number where one fits, so that all look alike.

    Only an image wider than the available number of screen pixels is shrunk by a fraction.
    """
    whole = int(available // pixels_wide)
    return float(min(whole, largest)) if whole >= 1 else available / pixels_wide


def text_width(text: str, size: float) -> float:
    """Inches that a text takes, its longest line for several, and a little more.

    Letters drawn on whole screen pixels come out up to 5% wider than their outlines.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    points = (TextPath((0, 0), line, size=size).get_extents().x1 for line in lines)
    return 1.05 * float(max(points, default=0.0)) / 72


def show_image(ax: Axes, image: Tensor, scale: float) -> None:
    """Fill the axes with one image (C, H, W) in [0, 1] and remove everything else."""
    ax.imshow(
        # Gray as three equal channels: a colour map would round some levels to their neighbours.
        pixels(image.expand(3, -1, -1)),
        aspect="auto",
        # Enlarged pixels stay squares; a shrunk image needs averaging or it flickers.
        interpolation="nearest" if scale >= 1 else "antialiased",
    )
    ax.set_axis_off()


def style_plot(ax: Axes, xlabel: str, ylabel: str) -> None:
    """A plot with two spines, a faint grid behind the data, and named axes."""
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
    """Plain numbers at 1, 2 and 5 of each decade of a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())

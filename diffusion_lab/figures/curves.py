"""Figures of curves: the loss of a training run, or a noise schedule over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diffusion_lab.figures.grid import PADDING, grid_tensor
from diffusion_lab.figures.style import (
    COLORS,
    DPI,
    FAINT,
    INK,
    PALE,
    SMALL_SIZE,
    TITLE_SIZE,
    WIDTH,
    new_figure,
    show_image,
    style_plot,
    whole_scale,
)

_HEIGHT = 3.6
_GRID_SIDE = 3.3
_LONGEST_REACH = 50


def loss_curve(
    losses: ArrayLike,
    *,
    ylim: tuple[float, float] | None = (0.0, 0.1),
    val: Sequence[tuple[float, float]] | None = None,
    epoch_boundaries: Sequence[float] | None = None,
    title: str | None = None,
) -> Figure:
    """Plot the loss of every training step, its running mean, and validation points.

    Args:
        losses: loss (N,) of steps 0 to N - 1. NaN and infinity leave a gap.
        ylim: range of the y axis. None means the 1st to 99th percentile of all plotted values, so
            that a few extreme first steps do not flatten the rest.
        val: validation points (step, loss), such as one per epoch.
        epoch_boundaries: steps at which an epoch ends, plotted as faint lines.
        title: title of the figure.

    Raises:
        ValueError: if losses is not one-dimensional.

    """
    figure = new_figure(WIDTH, _HEIGHT)
    figure.set_layout_engine("constrained")
    ax = figure.add_subplot()
    _draw_losses(ax, losses, ylim=ylim, val=val or (), epoch_boundaries=epoch_boundaries or ())
    if title:
        ax.set_title(title, fontsize=TITLE_SIZE, color=INK, loc="left")
    return figure


def line_plot(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    xlabel: str,
    ylabel: str = "",
    title: str | None = None,
    *,
    log: bool = False,
) -> Figure:
    """Plot curves with a legend, such as alpha and sigma of a noise schedule over t.

    Args:
        curves: name -> (x, y), both (N,).
        xlabel: label of the x axis, such as ``"t"`` or ``"step"``.
        ylabel: label of the y axis.
        title: title of the figure.
        log: True for two logarithmic axes.

    Raises:
        ValueError: if x and y of a curve differ in length.

    """
    figure = new_figure(WIDTH, _HEIGHT)
    figure.set_layout_engine("constrained")
    ax = figure.add_subplot()
    style_plot(ax, xlabel, ylabel)
    for index, (name, (x, y)) in enumerate(curves.items()):
        # after the last colour, colours repeat with dashed lines
        dashes = ("-", "--", ":")[index // len(COLORS) % 3]
        color = COLORS[index % len(COLORS)]
        ax.plot(_vector(x), _vector(y), dashes, color=color, linewidth=1.8, label=name)
    ax.margins(x=0.01)
    if log:
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
    if len(curves) > 4:  # too large for a corner of the axes
        figure.legend(loc="outside right center", frameon=False, fontsize=SMALL_SIZE)
    elif curves:
        ax.legend(frameon=False, fontsize=SMALL_SIZE, labelcolor=INK)
    if title:
        ax.set_title(title, fontsize=TITLE_SIZE, color=INK, loc="left")
    return figure


def loss_and_grid(
    losses: ArrayLike,
    images: Tensor,
    title: str | None = None,
    *,
    ylim: tuple[float, float] | None = (0.0, 0.1),
) -> Figure:
    """Plot the loss of a training run at the left and a grid of its samples at the right.

    Args:
        losses: loss (N,) of steps 0 to N - 1. NaN and infinity leave a gap.
        images: (N, C, H, W) in [0, 1], in a grid as square as possible.
        title: title of the figure.
        ylim: range of the y axis. None means the 1st to 99th percentile of the losses.

    Raises:
        ValueError: if losses is not one-dimensional, images is not (N, C, H, W), or N is 0.

    """
    grid = grid_tensor(images, nrow=math.ceil(math.sqrt(len(images))))
    scale = whole_scale(_GRID_SIDE * DPI, max(grid.shape[1:]))
    grid_height, grid_width = (pixels * scale / DPI for pixels in grid.shape[1:])
    border = PADDING * scale / DPI
    # in inches; the plot is as high as the grid, so that their edges align
    side = max(grid_height - 2 * border, 2.4)
    right, gap, bottom = 0.08, 0.2, 0.5
    top = 0.4 if title else 0.1
    width, height = WIDTH, bottom + side + top
    figure = new_figure(width, height)

    left = 0.7
    grid_left = width - right - grid_width
    plot = (left / width, bottom / height, (grid_left - gap - left) / width, side / height)
    _draw_losses(figure.add_axes(plot), losses, ylim=ylim, val=(), epoch_boundaries=())
    grid_bottom = bottom + side + border - grid_height
    box = (grid_left / width, grid_bottom / height, grid_width / width, grid_height / height)
    show_image(figure.add_axes(box), grid, scale)
    if title:
        figure.text(
            left / width,
            1 - 0.1 / height,
            title,
            fontsize=TITLE_SIZE,
            color=INK,
            ha="left",
            va="top",
        )
    return figure


def _draw_losses(
    ax: Axes,
    losses: ArrayLike,
    *,
    ylim: tuple[float, float] | None,
    val: Sequence[tuple[float, float]],
    epoch_boundaries: Sequence[float],
) -> None:
    values = _vector(losses)
    values[~np.isfinite(values)] = np.nan
    steps = np.arange(len(values))
    points = np.array(val, dtype=np.float64).reshape(-1, 2)
    style_plot(ax, "step", "loss")
    for boundary in epoch_boundaries:
        ax.axvline(boundary, color=FAINT, linewidth=1.2, zorder=0.5)

    reach = min(len(values) // 40, _LONGEST_REACH)
    if reach:
        ax.plot(steps, values, color=PALE, linewidth=0.7, label="each step")
        mean, label = running_mean(values, reach), f"mean over {2 * reach + 1} steps"
        ax.plot(steps, mean, color=COLORS[0], linewidth=1.8, label=label)
    else:
        # too few steps for a mean; markers, because a single step has no line
        ax.plot(steps, values, "o-", color=COLORS[0], linewidth=1.2, markersize=4, label="training")
    if len(points):
        ax.plot(*points.T, "o-", color=COLORS[1], linewidth=1.0, markersize=5, label="validation")
    ax.set_ylim(ylim or _robust_range(np.concatenate([values, points[:, 1]])))
    ax.margins(x=0.01)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if reach or len(points):
        ax.legend(frameon=False, fontsize=SMALL_SIZE, labelcolor=INK, loc="upper right")


def running_mean(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Return the centred running mean (N,) over `reach` steps on each side; NaN values are skipped.

    At the start the window shrinks symmetrically, because losses fall steeply at first, and a
    one-sided window would begin far below the first loss. At the end the window is cut off.
    """
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    index = np.arange(len(values))
    first = index - np.minimum(index, reach)
    end = np.minimum(index + np.minimum(index, reach) + 1, len(values))
    count = counts[end] - counts[first]
    return np.where(count > 0, (sums[end] - sums[first]) / np.maximum(count, 1), np.nan)


def _robust_range(values: NDArray[np.float64]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = (float(bound) for bound in np.percentile(finite, [1, 99]))
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    vector = np.array(values, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"expected one-dimensional values of a curve, got shape {vector.shape}")
    return vector

"""Figure of a ladder: the score of each rung on top, and a row of its samples below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from diffusion_lab.figures.grid import PADDING, grid_tensor
from diffusion_lab.figures.style import (
    COLORS,
    DPI,
    INK,
    MUTED,
    SMALL_SIZE,
    TEXT_SIZE,
    TITLE_SIZE,
    WIDTH,
    new_figure,
    show_image,
    style_plot,
    text_width,
    whole_scale,
)

_PLOT = 2.9  # inches from the top to the axis
_MARGIN = 0.08
_LABELS = 0.4  # inches for the labels under the axis


@dataclass(frozen=True)
class LadderRow:
    """Scores and samples of one rung."""

    name: str
    values: Sequence[float]
    """The score of each seed; empty if no training was scored."""
    interval: tuple[float, float] | None
    """Confidence interval of the mean; None if it is unknown."""
    images: Tensor | None
    """Samples (N, C, H, W) in [0, 1], with the same N on every rung; None if there are none."""


def ladder_figure(
    rows: Sequence[LadderRow], floor: float, ylabel: str = "FID", title: str | None = None
) -> Figure:
    """Plot the scores of all rungs, a point for each seed, above a row of samples for each rung.

    Args:
        rows: the rungs (training configurations), lowest first. The line for a confidence interval
            that reaches below 0 is cut off at the axis.
        floor: score of the same number of real images, drawn as a dashed line.
        ylabel: name of the score.
        title: heading of the figure.

    Raises:
        ValueError: for no rows, and for samples that differ in shape, are not (N, C, H, W), or have
            N = 0.

    """
    if not rows:
        raise ValueError("expected at least one rung, got none")
    grids = [None if r.images is None else grid_tensor(r.images, len(r.images)) for r in rows]
    shapes = {grid.shape for grid in grids if grid is not None}
    if len(shapes) > 1:
        raise ValueError(f"expected samples of one shape on all rungs, got shapes {sorted(shapes)}")
    left = max(0.75, *(text_width(row.name, TEXT_SIZE) + 2 * _MARGIN for row in rows))
    strip_height = strip_width = scale = 0.0
    if shapes:
        (_, high, wide) = shapes.pop()
        scale = whole_scale((WIDTH - left - _MARGIN) * DPI, wide)
        strip_height, strip_width = high * scale / DPI, wide * scale / DPI
    step = strip_height - PADDING * scale / DPI
    top = 0.35 if title else 0.1
    rows_top = top + _PLOT + _LABELS
    height = rows_top + len(rows) * step + 2 * _MARGIN
    figure = new_figure(WIDTH, height)
    ax = figure.add_axes(
        (left / WIDTH, 1 - (top + _PLOT) / height, (WIDTH - left - 0.15) / WIDTH, _PLOT / height)
    )
    _plot_scores(ax, rows, floor, ylabel)
    if title:
        figure.text(
            left / WIDTH, 1 - _MARGIN / height, title, fontsize=TITLE_SIZE, color=INK, va="top"
        )
    for index, (row, grid) in enumerate(zip(rows, grids, strict=True)):
        y = rows_top + index * step
        if grid is not None:
            bottom = 1 - (y + strip_height) / height
            box = (left / WIDTH, bottom, strip_width / WIDTH, strip_height / height)
            show_image(figure.add_axes(box), grid, scale)
        figure.text(
            (left - _MARGIN) / WIDTH,
            1 - (y + strip_height / 2) / height,
            row.name,
            fontsize=TEXT_SIZE,
            color=INK,
            ha="right",
            va="center",
        )
    return figure


def _plot_scores(ax: Axes, rows: Sequence[LadderRow], floor: float, ylabel: str) -> None:
    style_plot(ax, "", ylabel)
    known = np.array([value for row in rows for value in row.values])
    for index, row in enumerate(rows):
        if not len(row.values):
            continue
        mean = float(np.mean(row.values))
        if row.interval is not None:
            ax.plot([index, index], row.interval, color=COLORS[0], linewidth=1.6, zorder=2)
        ax.plot(
            [index - 0.16, index + 0.16], [mean, mean], color=COLORS[0], linewidth=1.8, zorder=3
        )
        aside = np.linspace(-0.1, 0.1, len(row.values)) if len(row.values) > 1 else [0.0]
        ax.plot(index + np.array(aside), row.values, "o", color=COLORS[1], markersize=4, zorder=4)
        ax.annotate(
            f"{mean:.3g}",
            (index + 0.18, mean),
            fontsize=SMALL_SIZE,
            color=INK,
            va="center",
        )
    ax.axhline(floor, color=MUTED, linewidth=1.2, linestyle="--", zorder=1)
    ax.annotate(
        f"real images {floor:.3g}",
        (len(rows) - 0.5, floor),
        fontsize=SMALL_SIZE,
        color=MUTED,
        ha="right",
        va="bottom",
    )
    lowest = min(float(known.min(initial=floor)), floor)
    highest = max(float(known.max(initial=floor)), floor)
    # on a linear axis the high scores of the lower rungs would hide differences between the others
    if lowest > 0 and highest > 10 * lowest:
        ax.set_yscale("log")
        ax.set_ylim(lowest / 1.6, highest * 1.6)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda value, position: f"{value:g}")
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        ax.set_ylim(0 if lowest >= 0 else None, highest + 0.15 * (highest - lowest or 1))
    ax.set_xlim(-0.5, len(rows) - 0.5)
    ax.set_xticks(range(len(rows)), [row.name for row in rows], rotation=0)
    ax.grid(False, axis="x")

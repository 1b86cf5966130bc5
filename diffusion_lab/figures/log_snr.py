"""Plots over noise levels: the x axis is log-SNR, so clean images are at the right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from diffusion_lab.figures.style import (
    COLORS,
    INK,
    MUTED,
    SMALL_SIZE,
    TEXT_SIZE,
    WIDTH,
    new_figure,
    style_plot,
)

_ROW = 3.0
_DECADES = 6
"""Decades shown below the largest value of a logarithmic panel."""


@dataclass(frozen=True)
class Band:
    """Curve (N,) over log-SNR, with an optional band y - half to y + half."""

    x: ArrayLike
    y: ArrayLike
    half: ArrayLike | None = None


def level_panels(
    panels: Mapping[str, Mapping[str, Band]], *, linear: tuple[str, ...] = ()
) -> Figure:
    """Plot panels of curves over log-SNR in two columns; each panel has a legend.

    The y axes are logarithmic except in the panels named in `linear`. Curves of the same name have
    the same colour in all panels. Values that are not finite, or not positive on a logarithmic
    axis, leave a gap.

    Args:
        panels: title -> name -> curve.
        linear: titles of the panels with a linear y axis.

    Raises:
        ValueError: for no panels.

    """
    if not panels:
        raise ValueError("expected at least one panel, got none")
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    rows = -(-len(panels) // 2)
    figure = new_figure(WIDTH * (1.25 if len(panels) > 1 else 1), _ROW * rows)
    figure.set_layout_engine("constrained")
    for index, (title, curves) in enumerate(panels.items()):
        ax = figure.add_subplot(rows, min(2, len(panels)), index + 1)
        style_plot(ax, "log-SNR", "")
        ax.set_title(title, fontsize=TEXT_SIZE, color=INK, loc="left")
        largest = 0.0
        for name, band in curves.items():
            color = COLORS[names.index(name) % len(COLORS)]
            largest = max(largest, _draw(ax, name, band, color, title not in linear))
        if title in linear:
            if ax.dataLim.y0 > -0.05 * ax.dataLim.y1:  # only bands reach below 0
                ax.set_ylim(bottom=0)
        else:
            ax.set_yscale("log")
            ax.tick_params(which="minor", labelsize=SMALL_SIZE, colors=MUTED, labelcolor=INK)
            low, high = ax.get_ylim()
            ax.set_ylim(max(low, largest * 10.0**-_DECADES), high)
        ax.legend(frameon=False, fontsize=SMALL_SIZE, labelcolor=INK)
    return figure


def _draw(ax: Axes, name: str, band: Band, color: str, log: bool) -> float:
    """Plot a curve and return its largest plotted value, 0 if no value is plotted."""
    x, y = np.asarray(band.x, dtype=np.float64), np.asarray(band.y, dtype=np.float64)
    shown = np.isfinite(y) & ((y > 0) | (not log))
    y = np.where(shown, y, np.nan)
    marker = "o" if len(x) <= 40 else None
    ax.plot(x, y, color=color, linewidth=1.6, marker=marker, markersize=3, label=name)
    if band.half is not None:
        half = np.asarray(band.half, dtype=np.float64)
        low = np.maximum(y - half, y / 10) if log else y - half
        ax.fill_between(x, low, y + half, color=color, alpha=0.2, linewidth=0)
    return float(np.nanmax(y)) if shown.any() else 0.0

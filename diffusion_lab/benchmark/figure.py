"""Log-log figure of measured time over problem size, with lines of proportional growth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike

from diffusion_lab.figures.style import (
    COLORS,
    INK,
    MUTED,
    SMALL_SIZE,
    TEXT_SIZE,
    WIDTH,
    new_figure,
    plain_log_ticks,
    style_plot,
)

_ROW = 2.8


@dataclass(frozen=True)
class Growth:
    """Data of one panel of `scaling_figure`: the measured seconds at each size."""

    title: str
    xlabel: str
    x: ArrayLike
    """Sizes, (N,), positive."""
    seconds: ArrayLike
    """Measured seconds at each size, (N,), positive."""
    exponent: float
    operations: ArrayLike | None = None
    """Floating-point operations at each size, (N,); plotted scaled to the last measured time."""


def scaling_figure(panels: Sequence[Growth]) -> Figure:
    """Plot measured seconds over size on log-log axes, with lines of proportional growth.

    The panels are arranged in two columns. A dashed line grows in proportion to the size, and a
    dotted line in proportion to `operations`, if the panel has these. Both lines go through the
    last measured point, where fixed costs matter least.

    Raises:
        ValueError: `panels` is empty.

    """
    if not panels:
        raise ValueError("expected at least one panel, got none")
    rows, columns = -(-len(panels) // 2), min(2, len(panels))
    figure = new_figure(WIDTH * (1.25 if columns > 1 else 1), _ROW * rows)
    figure.set_layout_engine("constrained")
    for index, panel in enumerate(panels):
        ax = figure.add_subplot(rows, columns, index + 1)
        style_plot(ax, panel.xlabel, "seconds")
        ax.set_title(panel.title, fontsize=TEXT_SIZE, color=INK, loc="left")
        x = np.asarray(panel.x, dtype=np.float64)
        seconds = np.asarray(panel.seconds, dtype=np.float64)
        proportional = seconds[-1] * x / x[-1]
        ax.plot(x, proportional, "--", color=MUTED, linewidth=1.2, label="proportional")
        if panel.operations is not None:
            operations = np.asarray(panel.operations, dtype=np.float64)
            line = seconds[-1] * operations / operations[-1]
            ax.plot(x, line, ":", color=COLORS[1], linewidth=1.6, label="operations")
        label = f"measured, exponent {panel.exponent:.2f}"
        ax.plot(x, seconds, "o-", color=COLORS[0], linewidth=1.6, markersize=4, label=label)
        ax.set_xscale("log")
        ax.set_yscale("log")
        plain_log_ticks(ax.xaxis)
        if x[-1] >= 100 * x[0]:
            ax.xaxis.set_major_locator(LogLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        few = seconds.max() < 100 * min(seconds.min(), proportional.min())
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.legend(frameon=False, fontsize=SMALL_SIZE, labelcolor=INK)
    return figure

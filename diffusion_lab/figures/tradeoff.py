"""The figure of quality against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from diffusion_lab.figures.style import (
    COLORS,
    INK,
    MUTED,
    SMALL_SIZE,
    WIDTH,
    new_figure,
    style_plot,
)


@dataclass(frozen=True)
class Point:
    """One choice: what it costs by two measures and how far it is from real images."""

    calls: float
    milliseconds: float
    quality: float
    on_front: tuple[bool, bool]
    """Whether no other choice is better in calls and quality; in milliseconds and quality."""


def tradeoff_figure(
    curves: Mapping[str, Sequence[Point]], ylabel: str = "FID", floor: float | None = None
) -> Figure:
    """Draw quality over network calls and over milliseconds an image, all logarithmic.

    Args:
        curves: name -> its points, in order of their cost; those on a front are ringed.
        ylabel: what quality is; less is better.
        floor: a dashed line: what real images have.

    """
    figure = new_figure(WIDTH, 4.2 + 0.1 * len(curves))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for side, (ax, xlabel) in enumerate(
        ((left, "network calls an image"), (right, "milliseconds an image"))
    ):
        style_plot(ax, xlabel, "" if side else ylabel)
        if floor is not None and floor > 0:
            ax.axhline(floor, color=MUTED, linewidth=1.2, linestyle="--", label="real images")
        for i, (name, points) in enumerate(curves.items()):
            color, dashes = COLORS[i % len(COLORS)], ("-", "--", ":")[i // len(COLORS) % 3]
            costs = [(p.calls, p.milliseconds)[side] for p in points]
            values = [p.quality for p in points]
            ax.plot(
                costs, values, "o" + dashes, color=color, linewidth=1.2, markersize=4, label=name
            )
            front = [(x, p.quality) for x, p in zip(costs, points, strict=True) if p.on_front[side]]
            if front:
                ax.plot(*zip(*front, strict=True), "o", color=INK, markersize=9, fillstyle="none")
        _readable_log(ax)
    left.plot([], [], "o", color=INK, markersize=9, fillstyle="none", label="on the front")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=SMALL_SIZE
    )
    return figure


def _readable_log(ax: Axes) -> None:
    """Logarithmic axes with plain numbers at 1, 2 and 5."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(LogLocator(subs=()))

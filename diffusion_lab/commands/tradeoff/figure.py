"""Figure of quality against cost, with Pareto fronts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from diffusion_lab.figures.style import (
    COLORS,
    INK,
    MUTED,
    SMALL_SIZE,
    WIDTH,
    new_figure,
    plain_log_ticks,
    style_plot,
)

_FAR = 5.0  # a baseline this many times below all points is left off the axes


@dataclass(frozen=True)
class Point:
    """Cost and quality of one sampler setting."""

    calls: float
    """NFE for one image."""
    milliseconds: float
    """Time for one image."""
    quality: float
    """Distance to real images, such as FID; lower is better."""
    on_front: tuple[bool, bool]
    """Two flags: on the Pareto front of NFE and quality; on the front of time and quality."""


def tradeoff_figure(
    curves: Mapping[str, Sequence[Point]], ylabel: str = "FID", floor: float | None = None
) -> Figure:
    """Plot quality over NFE and over milliseconds per image, all axes logarithmic.

    The axis of quality is linear if a value is not positive, such as a KID.

    Args:
        curves: name -> points in order of cost; points on a Pareto front get a ring.
        ylabel: name of the quality, of which lower is better.
        floor: quality of real images, drawn as a dashed line. A value far below all points is
            written into the legend only, because the line would squeeze the points together.

    """
    lowest = min((p.quality for points in curves.values() for p in points), default=math.nan)
    figure = new_figure(WIDTH, 4.2 + 0.1 * len(curves))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for side, (ax, xlabel) in enumerate(((left, "NFE"), (right, "milliseconds per image"))):
        style_plot(ax, xlabel, "" if side else ylabel)
        if floor is not None and floor > 0:
            near = floor > lowest / _FAR
            where = [floor, floor] if near else []
            label = "real images" if near else f"real images: {floor:.2g}, below"
            ax.plot(
                [0, 1][: len(where)],
                where,
                "--",
                color=MUTED,
                linewidth=1.2,
                label=label,
                transform=ax.get_yaxis_transform(),
            )
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
        ax.set_xscale("log")
        plain_log_ticks(ax.xaxis)
        if lowest > 0:
            ax.set_yscale("log")
            plain_log_ticks(ax.yaxis)
    left.plot([], [], "o", color=INK, markersize=9, fillstyle="none", label="on the Pareto front")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=SMALL_SIZE
    )
    return figure

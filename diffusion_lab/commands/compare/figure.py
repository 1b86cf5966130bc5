"""Figures that compare several runs: their scores and their losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from diffusion_lab.figures.curves import running_mean
from diffusion_lab.figures.style import (
    COLORS,
    INK,
    MUTED,
    SMALL_SIZE,
    TEXT_SIZE,
    TITLE_SIZE,
    WIDTH,
    new_figure,
    plain_log_ticks,
    style_plot,
    text_width,
)

_ROW = 0.42
_LONGEST_NAME = 34


@dataclass(frozen=True)
class Spread:
    """One row of a panel: values, their mean and the confidence interval of the mean."""

    values: Sequence[float]
    """Values that are drawn as points."""
    mean: float
    low: float | None
    """Lower end of the confidence interval; None if the interval is unknown."""
    high: float | None
    """Upper end of the confidence interval; None if the interval is unknown."""


@dataclass(frozen=True)
class Panel:
    """Plot of one metric, with a row for each group of runs."""

    title: str
    rows: Sequence[Spread]
    floor: float | None = None
    """Score of real images, drawn as a dashed line; None for no line."""


def spread_panels(
    names: Sequence[str], panels: Sequence[Panel], title: str | None = None
) -> Figure:
    """Plot one panel for each metric: points for values, a bar for the interval of their mean.

    Args:
        names: names of the rows, from the top.
        panels: one for each metric, with a row for every name; drawn two side by side.
        title: heading of the figure.

    Raises:
        ValueError: for no panel, or a panel with more or fewer rows than `names`.

    """
    if not panels or any(len(panel.rows) != len(names) for panel in panels):
        raise ValueError("expected at least one panel, and in each panel one row for every name")
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    labels = [_folded(name) for name in names]
    height = lines * (0.95 + _ROW * sum(label.count("\n") / 2 + 1 for label in labels))
    width = WIDTH + max(0.0, max(text_width(label, SMALL_SIZE) for label in labels) - 1.2)
    figure = new_figure(width, height + (0.35 if title else 0))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for ax, panel in zip(axes.flat, panels, strict=False):
        style_plot(ax, panel.title, "")
        if panel.floor is not None:
            ax.axvline(panel.floor, color=MUTED, linewidth=1.2, linestyle="--")
        for i, row in enumerate(panel.rows):
            color = COLORS[i % len(COLORS)]
            if row.low is not None and row.high is not None:
                ax.plot([row.low, row.high], [i, i], color=color, linewidth=5, alpha=0.3)
            ax.plot(row.values, [i] * len(row.values), "o", color=color, markersize=4, alpha=0.7)
            ax.plot([row.mean], [i], "|", color=color, markersize=16, markeredgewidth=2)
        ax.set_yticks(range(len(names)), labels)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.margins(x=0.08)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_visible(False)
    if any(panel.floor is not None for panel in panels):
        dashed = axes.flat[0].plot([], [], "--", color=MUTED, linewidth=1.2)
        figure.legend(
            dashed, ["real images"], loc="outside lower right", frameon=False, fontsize=SMALL_SIZE
        )
    if title:
        figure.suptitle(title, fontsize=TITLE_SIZE, color=INK, x=0.01, ha="left")
    return figure


def loss_curves(
    curves: Mapping[str, Sequence[tuple[ArrayLike, Sequence[tuple[float, float]]]]],
    title: str | None = None,
) -> Figure:
    """Plot losses of several runs: running means of training losses, dots for validation losses.

    Args:
        curves: name of a group -> a tuple for each run of the group: the training loss of every
            step, (N,), and the points (step, validation loss). Either may be empty.
        title: heading of the figure.

    """
    figure = new_figure(WIDTH, 3.8 + 0.18 * len(curves))
    figure.set_layout_engine("constrained")
    ax = figure.add_subplot()
    style_plot(ax, "step", "loss")
    for i, (name, runs) in enumerate(curves.items()):
        color, dashes = COLORS[i % len(COLORS)], ("-", "--", ":")[i // len(COLORS) % 3]
        ax.plot([], [], dashes, color=color, label=name)
        for losses, validations in runs:
            steps = np.asarray(losses, dtype=np.float64)
            steps = np.where(np.isfinite(steps), steps, np.nan)
            mean = running_mean(steps, min(len(steps) // 40, 50))
            ax.plot(np.arange(len(mean)), mean, dashes, color=color, linewidth=1.0, alpha=0.6)
            points = np.array(validations, dtype=np.float64).reshape(-1, 2)
            ax.plot(*points.T, "o", color=color, markersize=4)
    ax.set_yscale("log")
    plain_log_ticks(ax.yaxis)
    ax.margins(x=0.02)
    ax.plot([], [], "o", color=MUTED, markersize=4, label="validation")
    figure.legend(loc="outside lower left", frameon=False, fontsize=SMALL_SIZE, labelcolor=INK)
    if title:
        ax.set_title(title, fontsize=TEXT_SIZE, color=INK, loc="left")
    return figure


def _folded(name: str) -> str:
    """Break a name at its commas into lines of about _LONGEST_NAME characters."""
    lines = [""]
    for part in name.split(", "):
        if lines[-1] and len(lines[-1]) + len(part) > _LONGEST_NAME:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] += f", {part}" if lines[-1] else part
    return "\n".join(lines)

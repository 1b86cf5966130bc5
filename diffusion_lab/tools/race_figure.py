"""Figure of sample quality over training time."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Entry:
    """A training configuration: its mean training time, and the quality of each training."""

    name: str
    seconds: float
    qualities: tuple[float, ...]
    """Quality of each training; lower is better."""

    @property
    def quality(self) -> float:
        """Mean of `qualities`."""
        return sum(self.qualities) / len(self.qualities)


def race_figure(
    entries: Sequence[Entry], ylabel: str = "FID", floor: float | None = None
) -> Figure:
    """Plot quality over seconds of training: a point per training, a ring per configuration.

    Args:
        entries: training configurations. The ring of each is the mean of its trainings; its name
            is printed beside the ring.
        ylabel: name of the quality measure.
        floor: real-data baseline, drawn as a dashed line.

    """
    figure = new_figure(WIDTH, 4.6)
    figure.set_layout_engine("constrained")
    ax = figure.subplots()
    style_plot(ax, "seconds from the start of the work to its end", ylabel)
    if floor is not None and floor > 0:
        ax.axhline(floor, linestyle="--", color=MUTED, linewidth=1.2)
        ax.annotate(
            "real images",
            (0.995, floor),
            xycoords=ax.get_yaxis_transform(),
            ha="right",
            va="bottom",
            fontsize=SMALL_SIZE,
            color=MUTED,
        )
    seconds_of_all = [entry.seconds for entry in entries]
    middle = (min(seconds_of_all) * max(seconds_of_all)) ** 0.5
    for i, entry in enumerate(entries):
        color = COLORS[i % len(COLORS)]
        seconds = [entry.seconds] * len(entry.qualities)
        ax.plot(seconds, entry.qualities, "o", color=color, markersize=4)
        ax.plot(entry.seconds, entry.quality, "o", color=color, markersize=10, fillstyle="none")
        inwards = 1 if entry.seconds <= middle else -1  # names stay within the axes
        ax.annotate(
            entry.name,
            (entry.seconds, entry.quality),
            xytext=(9 * inwards, 0 if inwards > 0 else -7),  # beside the rings to the left
            textcoords="offset points",
            ha="left" if inwards > 0 else "right",
            va="center",
            fontsize=SMALL_SIZE,
            color=INK,
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.margins(x=0.25, y=0.12)
    plain_log_ticks(ax.xaxis)
    plain_log_ticks(ax.yaxis)
    return figure

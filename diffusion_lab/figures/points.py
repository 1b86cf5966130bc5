"""Figures of points in the plane: scatter plots, paths, vector fields, and frames of animations.

Points are tensors (N, ...), of which the first two numbers of each are the coordinates. Real points
are drawn in gray behind the others. All panels of a figure have equal axes and one range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab.figures.style import (
    COLORS,
    FAINT,
    INK,
    MUTED,
    SMALL_SIZE,
    TEXT_SIZE,
    new_figure,
)

MOST = 4000
"""Points of one kind in a panel, at most, because more only cover each other."""
COLUMNS = 4
"""Panels in a row, at most."""
_SIDE = 4.5  # inches, of a single panel
_PANEL = 2.6  # inches, of one panel of several
_FRAME = 2.4  # inches, of a frame of an animation
_REAL = "#c4c4c4"
Coordinates = NDArray[np.float64]


def scatter(
    groups: Mapping[str, Tensor],
    real: Tensor | None = None,
    title: str | None = None,
    labels: Tensor | None = None,
) -> Figure:
    """Plot groups of points with a legend over real points.

    Args:
        groups: name -> points (N, ...).
        real: real points, drawn in gray.
        title: title of the figure.
        labels: classes (N,) of the points of a single group, which colour them; without legend.

    """
    figure, (ax,) = _panels(1)
    shown = [*groups.values(), *([] if real is None else [real])]
    _prepare(ax, _limit(shown))
    _draw_real(ax, real)
    for index, (name, points) in enumerate(groups.items()):
        _dots(ax, points, COLORS[index % len(COLORS)], labels, name)
    if len(groups) > 1:
        ax.legend(frameon=False, fontsize=SMALL_SIZE, labelcolor=INK, markerscale=3)
    if title:
        ax.set_title(title, fontsize=TEXT_SIZE, color=INK, loc="left")
    return figure


def scatter_panels(
    panels: Mapping[str, Tensor],
    real: Tensor | None = None,
    title: str | None = None,
    labels: Tensor | None = None,
) -> Figure:
    """Plot points side by side, one panel for each title -> points, over the same real points.

    `labels` are classes (N,) of the points, the same in all panels, which colour them.
    """
    figure, axes = _panels(len(panels))
    limit = _limit([*panels.values(), *([] if real is None else [real])])
    for ax, (name, points) in zip(axes, panels.items(), strict=True):
        _prepare(ax, limit, name)
        _draw_real(ax, real)
        _dots(ax, points, COLORS[0], labels)
    _title(figure, title)
    return figure


def moves(panels: Mapping[str, tuple[Tensor, Tensor]], title: str | None = None) -> Figure:
    """Plot lines from points to points, one panel for each title -> (from, to); `to` has dots."""
    figure, axes = _panels(len(panels))
    limit = _limit([points for pair in panels.values() for points in pair])
    for ax, (name, (begin, end)) in zip(axes, panels.items(), strict=True):
        _prepare(ax, limit, name)
        a, b = _plane(begin), _plane(end)
        ax.plot(*np.stack([a, b], 1).T, color=FAINT, linewidth=0.6, zorder=1)
        _dots(ax, begin, MUTED)
        _dots(ax, end, COLORS[1])
    _title(figure, title)
    return figure


def paths(steps: Sequence[Tensor], real: Tensor | None = None, title: str | None = None) -> Figure:
    """Plot the path of each point through tensors (N, ...), from noise (gray) to its end."""
    figure, (ax,) = _panels(1)
    _prepare(ax, _limit([steps[0], steps[-1], *([] if real is None else [real])]))
    _draw_real(ax, real)
    along = np.stack([_plane(points) for points in steps])  # (S, N, 2)
    for k in range(along.shape[1]):
        ax.plot(*along[:, k].T, color=COLORS[0], linewidth=0.6, alpha=0.5, zorder=2)
    _dots(ax, steps[0], MUTED)
    _dots(ax, steps[-1], COLORS[1])
    _title(figure, title)
    return figure


def vector_field(
    panels: Mapping[str, tuple[Tensor, Tensor]],
    real: Tensor | None = None,
    title: str | None = None,
) -> Figure:
    """Plot arrows, one panel for each title -> (points (N, ...), vectors (N, ...)).

    Lengths are relative to the longest arrow of the panel, at the 95th percentile.
    """
    figure, axes = _panels(len(panels))
    limit = _limit([points for points, _ in panels.values()])
    for ax, (name, (points, vectors)) in zip(axes, panels.items(), strict=True):
        _prepare(ax, limit, name)
        _draw_real(ax, real)
        at, arrows = _plane(points), _plane(vectors)
        longest = max(float(np.quantile(np.hypot(*arrows.T), 0.95)), 1e-12)
        spacing = 2 * limit / math.sqrt(len(at))
        ax.quiver(
            *at.T,
            *(arrows * (spacing / longest)).T,
            color=COLORS[0],
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.005,
        )
    _title(figure, title)
    return figure


def scatter_frames(
    frames: Sequence[Tensor], real: Tensor | None = None, labels: Tensor | None = None
) -> list[Tensor]:
    """Draw points as frames of an animation for `save_gif`: tensors (1, 3, H, W) in [0, 1].

    All frames have the range of the first and the last one.
    """
    figure = new_figure(_FRAME, _FRAME)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    _prepare(ax, _limit([frames[0], frames[-1], *([] if real is None else [real])]))
    ax.set_axis_off()
    _draw_real(ax, real)
    dots = ax.scatter([], [], s=3, linewidths=0, zorder=3)
    colours = _colours(labels)
    drawn = []
    for points in frames:
        dots.set_offsets(_plane(points))
        dots.set_facecolor(COLORS[0] if colours is None else colours)
        drawn.append(_rendered(figure))
    return drawn


def _rendered(figure: Figure) -> Tensor:
    """Render a figure as an image (1, 3, H, W) in [0, 1]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rgba = np.asarray(canvas.buffer_rgba())
    return torch.from_numpy(rgba[..., :3].copy()).permute(2, 0, 1)[None].float() / 255


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure of square panels, and these."""
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    side = _SIDE if count == 1 else _PANEL
    figure = new_figure(columns * side, rows * side * 1.08)
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def _prepare(ax: Axes, limit: float, title: str = "") -> None:
    """Set equal axes from -limit to limit."""
    ax.set_xlim(-limit, limit)
    ax.set_ylim(-limit, limit)
    ax.set_aspect("equal")
    ax.tick_params(labelsize=SMALL_SIZE - 1, colors=MUTED, length=2)
    for side in ax.spines.values():
        side.set_color(FAINT)
    if title:
        ax.set_title(title, fontsize=TEXT_SIZE, color=INK, loc="left")


def _limit(shown: Sequence[Tensor]) -> float:
    """Return the largest absolute coordinate of nearly all points, with a margin."""
    ends = [float(np.quantile(np.abs(_plane(points)), 0.998)) for points in shown if len(points)]
    return 1.1 * max([*ends, 1e-6])


def _draw_real(ax: Axes, real: Tensor | None) -> None:
    if real is not None:
        x, y = _plane(real).T
        ax.scatter(x, y, s=2, color=_REAL, linewidths=0, zorder=0)


def _dots(
    ax: Axes, points: Tensor, color: str, labels: Tensor | None = None, name: str = ""
) -> None:
    colours = _colours(labels)
    x, y = _plane(points).T
    ax.scatter(
        x,
        y,
        s=3,
        color=color if colours is None else colours,
        linewidths=0,
        zorder=3,
        label=name,
    )


def _colours(labels: Tensor | None) -> list[str] | None:
    return None if labels is None else [COLORS[int(k) % len(COLORS)] for k in labels[:MOST]]


def _plane(points: Tensor) -> Coordinates:
    """Return the coordinates (N, 2) of up to MOST points; a single number gets a second one, 0."""
    flat = points[:MOST].detach().flatten(1).cpu().double()
    if flat.shape[1] == 1:
        flat = torch.cat([flat, torch.zeros_like(flat)], 1)
    coordinates: Coordinates = flat[:, :2].nan_to_num().numpy()
    return coordinates


def _title(figure: Figure, title: str | None) -> None:
    if title:
        figure.suptitle(title, fontsize=TEXT_SIZE, color=INK, x=0.01, ha="left")

"""Figures made of images: rows, grids, labelled rows, and the way from noise to a sample.

Images come as (N, C, H, W), C = 1 or 3, in [0, 1]. Values outside are clipped for display only.
A figure is as large as what it shows: nothing is cropped and no space is wasted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from diffusion_lab.figures.grid import PADDING, grid_tensor
from diffusion_lab.figures.style import (
    DPI,
    INK,
    SMALL_SIZE,
    TEXT_SIZE,
    TITLE_SIZE,
    WIDTH,
    new_figure,
    show_image,
    text_width,
    whole_scale,
)

PER_CELL = 8
"""Images in one cell of a trajectory."""
MOST_IN_A_ROW = 16
"""Images of a labelled row that stand in one line; more of them go on in the next."""

_MARGIN = 0.08
_LABEL_GAP = 0.12
_COLUMN_GAP = 0.15
_LINE = 1.4 / 72  # inches of height per point of text
_BLOCK_GAP = 0.15
_HEIGHT = 1.5 * WIDTH
"""Inches that many rows are shrunk to, as far as their pixels and names allow."""


def image_row(
    images: Tensor, title: str | None = None, labels: Sequence[str] | None = None
) -> Figure:
    """All images side by side, with a text over each where labels are given.

    Args:
        images: (N, C, H, W) in [0, 1].
        title: a line over the figure.
        labels: one per image, such as the amounts of noise.

    Raises:
        ValueError: the labels are not N, or as for `grid_tensor`.

    """
    if labels is None:
        return _table([[grid_tensor(images, nrow=len(images))]], title=title)
    if len(labels) != len(images):
        raise ValueError(f"{len(images)} images need as many labels, got {len(labels)}")
    cells = [grid_tensor(image[None]) for image in images]
    return _table([cells], title=title, column_labels=labels, column_gap=0.0)


def labelled_rows(rows: Mapping[str, Tensor], title: str | None = None) -> Figure:
    """One row of images per entry with its name at the left: input, corrupted, prediction.

    A row of more than 16 images has several lines.

    Args:
        rows: name -> (N, C, H, W) in [0, 1]; N, H and W are the same in all rows.
        title: a line over the figure.

    Raises:
        ValueError: no rows, rows of different sizes, or as for `grid_tensor`.

    """
    cells = [[grid_tensor(images, nrow=_in_a_row(len(images)))] for images in rows.values()]
    return _table(cells, title=title, row_labels=list(rows))


def labelled_table(
    rows: Mapping[str, Sequence[Tensor]], columns: Sequence[str], title: str | None = None
) -> Figure:
    """Rows with a name at the left, columns with one on top, a few images side by side in a cell.

    Columns that would be narrower than their names go on below, in rows of the same names.

    Args:
        rows: name -> per column (N, C, H, W) in [0, 1]; all of one shape.
        columns: a name for each.
        title: a line over the figure.

    Raises:
        ValueError: no rows, cells of different shapes, another number of columns, or as for
            `grid_tensor`.

    """
    if any(len(row) != len(columns) for row in rows.values()):
        raise ValueError(f"every row needs a cell for each of the {len(columns)} columns")
    cells = [[grid_tensor(images, nrow=len(images)) for images in row] for row in rows.values()]
    return _table(cells, title=title, row_labels=list(rows), column_labels=columns)


def trajectory(
    inputs: Sequence[Tensor],
    predictions: Sequence[Tensor],
    labels: Sequence[str],
    title: str | None = None,
) -> Figure:
    """Sampling step by step: left what the network gets, right what it predicts.

    Every given step becomes a row: a caller with hundreds of steps chooses which to show.

    Args:
        inputs: per step (N, C, H, W) in [0, 1]; the first 8 images are shown.
        predictions: as inputs, as many.
        labels: one short text per step, such as ``"t = 0.80"``.
        title: a line over the figure.

    Raises:
        ValueError: no steps, lists of different lengths, images of different sizes, or as for
            `grid_tensor`.

    """
    if not len(inputs) == len(predictions) == len(labels):
        raise ValueError(
            "a trajectory needs as many inputs as predictions and labels, got "
            f"{len(inputs)}, {len(predictions)} and {len(labels)}"
        )
    cells = [
        [grid_tensor(images[:PER_CELL], nrow=PER_CELL) for images in step]
        for step in zip(inputs, predictions, strict=True)
    ]
    return _table(
        cells,
        title=title,
        row_labels=labels,
        column_labels=("network input", "prediction"),
    )


def _in_a_row(count: int) -> int:
    """Return how many of `count` images stand in a line, so that all lines are about as long."""
    return max(1, math.ceil(count / math.ceil(count / MOST_IN_A_ROW))) if count else 1


def _table(
    cells: Sequence[Sequence[Tensor]],
    *,
    title: str | None = None,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    column_gap: float = _COLUMN_GAP,
) -> Figure:
    """Rows and columns of pictures (C, H, W), all of one size, with texts at the left and on top.

    Positions are counted in inches from the sizes of the texts and the pixels: matplotlib's own
    layout would stretch the pixels unevenly or leave bands of white around them.
    """
    sizes = {tuple(cell.shape[1:]) for row in cells for cell in row}
    if not sizes:
        raise ValueError("there is no row of images to draw")
    if len(sizes) > 1:
        raise ValueError(f"images of one figure must have one number and size, got {sorted(sizes)}")
    high, wide = sizes.pop()

    left = max((text_width(text, TEXT_SIZE) for text in row_labels), default=0.0)
    left += _MARGIN + (_LABEL_GAP if row_labels else 0.0)
    top = _MARGIN + (TITLE_SIZE * _LINE if title else 0.0)
    head = TEXT_SIZE * _LINE + 0.04 if column_labels else 0.0
    # what does not fit side by side goes on in the next block, below
    room = WIDTH - left - _MARGIN
    blocks = _blocks(len(cells[0]), room, wide, column_labels, column_gap)
    columns = max(map(len, blocks))
    scale = _scale((room - (columns - 1) * column_gap) * DPI, columns * wide, high, len(cells))
    cell_width, cell_height = wide * scale / DPI, high * scale / DPI
    # Neighbouring rows share one gap between images instead of showing two.
    row_step = cell_height - PADDING * scale / DPI
    block_height = head + (len(cells) - 1) * row_step + cell_height
    block_step = block_height + _BLOCK_GAP

    content = columns * cell_width + (columns - 1) * column_gap
    title_left = left + PADDING * scale / DPI
    width = max(left + content, title_left + text_width(title or "", TITLE_SIZE)) + _MARGIN
    height = top + (len(blocks) - 1) * block_step + block_height + _MARGIN
    figure = new_figure(width, height)

    def write(text: str, x: float, y: float, size: float, align: str, vertical: str) -> None:
        figure.text(
            x / width, 1 - y / height, text, fontsize=size, color=INK, ha=align, va=vertical
        )

    for b, block in enumerate(blocks):
        first = top + b * block_step + head
        for r, row in enumerate(cells):
            y = first + r * row_step
            for c, column in enumerate(block):
                x = left + c * (cell_width + column_gap)
                box = (
                    x / width,
                    1 - (y + cell_height) / height,
                    cell_width / width,
                    cell_height / height,
                )
                show_image(figure.add_axes(box), row[column], scale)
        for r, text in enumerate(row_labels):
            y = first + r * row_step + cell_height / 2
            write(text, left - _LABEL_GAP, y, TEXT_SIZE, "right", "center")
        for c, column in enumerate(block if column_labels else ()):
            text = column_labels[column]
            x = left + c * (cell_width + column_gap) + cell_width / 2
            size = TEXT_SIZE if text_width(text, TEXT_SIZE) <= cell_width else SMALL_SIZE
            write(text, x, first - 0.04, size, "center", "bottom")
    if title:
        write(title, title_left, _MARGIN, TITLE_SIZE, "left", "top")
    return figure


def _blocks(columns: int, room: float, wide: int, labels: Sequence[str], gap: float) -> list[range]:
    """Split columns, `wide` pixels each, into blocks in which every one has room for its name."""
    if not labels:
        return [range(columns)]
    widest = max(text_width(text, SMALL_SIZE) for text in labels)
    most = max(1, int((room + gap) / (max(widest, wide / DPI) + gap)))
    each = math.ceil(columns / math.ceil(columns / most))
    return [range(first, min(first + each, columns)) for first in range(0, columns, each)]


def _scale(available: float, wide: int, high: int, rows: int) -> float:
    """Return the screen pixels per image pixel for rows (high, wide) within the figure's size.

    Rows are shrunk for the height no further than to whole pixels that leave room for their names.
    """
    by_width = whole_scale(available, wide)
    least = math.ceil(TEXT_SIZE * _LINE * DPI / (high - PADDING))
    by_height = max(int(_HEIGHT * DPI / (rows * (high - PADDING))), least)
    return min(by_width, float(by_height))

"""Figures of images: rows, grids, labelled tables, and sampling trajectories.

Images are (N, C, H, W) in [0, 1]. Other values are clipped for display only. The size of a figure
follows from its content, without cropping or empty space.
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
"""Images per cell of a trajectory."""
MOST_IN_A_ROW = 16
"""Largest number of images per line of a labelled row; more images are wrapped."""

_MARGIN = 0.08
_LABEL_GAP = 0.12
_COLUMN_GAP = 0.15
_LINE = 1.4 / 72  # inches of height per point of text
_BLOCK_GAP = 0.15
_HEIGHT = 1.5 * WIDTH
"""Height in inches to which many rows are shrunk, if pixels and row labels stay readable."""


def image_row(
    images: Tensor, title: str | None = None, labels: Sequence[str] | None = None
) -> Figure:
    """Plot images side by side, with an optional label above each image.

    Args:
        images: (N, C, H, W) in [0, 1].
        title: title of the figure.
        labels: one label per image, such as the amount of noise.

    Raises:
        ValueError: if the number of labels is not N, images is not (N, C, H, W), or N is 0.

    """
    if labels is None:
        return _table([[grid_tensor(images, nrow=len(images))]], title=title)
    if len(labels) != len(images):
        raise ValueError(
            f"expected {len(images)} labels for {len(images)} images, got {len(labels)}"
        )
    cells = [grid_tensor(image[None]) for image in images]
    return _table([cells], title=title, column_labels=labels, column_gap=0.0)


def labelled_rows(rows: Mapping[str, Tensor], title: str | None = None) -> Figure:
    """Plot one row of images per entry of `rows`, with the entry's name at the left.

    Rows of more than 16 images are wrapped.

    Args:
        rows: name -> (N, C, H, W) in [0, 1]; N, H and W are equal in all rows.
        title: title of the figure.

    Raises:
        ValueError: for no rows, rows of different sizes, or images that are not (N, C, H, W).

    """
    cells = [[grid_tensor(images, nrow=_in_a_row(len(images)))] for images in rows.values()]
    return _table(cells, title=title, row_labels=list(rows))


def labelled_table(
    rows: Mapping[str, Sequence[Tensor]], columns: Sequence[str], title: str | None = None
) -> Figure:
    """Plot a table of images with named rows and columns, a few images per cell.

    If columns would be narrower than their names, the last columns are wrapped into a block below.

    Args:
        rows: row name -> images (N, C, H, W) in [0, 1] for each column; all of one shape.
        columns: column names.
        title: title of the figure.

    Raises:
        ValueError: for no rows, cells of different shapes, a number of cells that differs from the
            number of columns, or images that are not (N, C, H, W).

    """
    if any(len(row) != len(columns) for row in rows.values()):
        raise ValueError(f"expected {len(columns)} cells in every row, one for each column")
    cells = [[grid_tensor(images, nrow=len(images)) for images in row] for row in rows.values()]
    return _table(cells, title=title, row_labels=list(rows), column_labels=columns)


def trajectory(
    inputs: Sequence[Tensor],
    predictions: Sequence[Tensor],
    labels: Sequence[str],
    title: str | None = None,
) -> Figure:
    """Plot sampler steps as rows: network input at the left, predicted clean images at the right.

    Each given step is a row, so callers with hundreds of steps pass a selection of the steps.

    Args:
        inputs: noisy images (N, C, H, W) in [0, 1] for each step; the first 8 are shown.
        predictions: predicted clean images (N, C, H, W) in [0, 1] for each step.
        labels: one short label per step, such as ``"t = 0.80"``.
        title: title of the figure.

    Raises:
        ValueError: for no steps, lists of different lengths, images of different sizes, or images
            that are not (N, C, H, W).

    """
    if not len(inputs) == len(predictions) == len(labels):
        raise ValueError(
            "expected the same number of inputs, predictions and labels, got "
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
    """Return the number of images per line if a row is wrapped into lines of about equal length.

    `count` is the number of images in the row.
    """
    return max(1, math.ceil(count / math.ceil(count / MOST_IN_A_ROW))) if count else 1


def _table(
    cells: Sequence[Sequence[Tensor]],
    *,
    title: str | None = None,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    column_gap: float = _COLUMN_GAP,
) -> Figure:
    """Plot cells, images (C, H, W) of equal size, in a table with row and column labels.

    Positions are computed in inches from the sizes of texts and pixels. matplotlib's own layout
    would stretch pixels unevenly or leave white bands around the images.
    """
    sizes = {tuple(cell.shape[1:]) for row in cells for cell in row}
    if not sizes:
        raise ValueError("expected at least one row of images")
    if len(sizes) > 1:
        raise ValueError(f"expected images of one size in all cells, got {sorted(sizes)}")
    high, wide = sizes.pop()

    left = max((text_width(text, TEXT_SIZE) for text in row_labels), default=0.0)
    left += _MARGIN + (_LABEL_GAP if row_labels else 0.0)
    top = _MARGIN + (TITLE_SIZE * _LINE if title else 0.0)
    head = TEXT_SIZE * _LINE + 0.04 if column_labels else 0.0
    # columns that do not fit side by side are wrapped into the next block
    room = WIDTH - left - _MARGIN
    blocks = _blocks(len(cells[0]), room, wide, column_labels, column_gap)
    columns = max(map(len, blocks))
    scale = _scale((room - (columns - 1) * column_gap) * DPI, columns * wide, high, len(cells))
    cell_width, cell_height = wide * scale / DPI, high * scale / DPI
    # neighbouring rows share one gap
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
    """Split the columns of a wide table into blocks to draw below one another.

    A block has at most as many columns as fit if all are as wide as the widest label. `room` is the
    width of a block in inches, `gap` the space between columns in inches, `wide` the width of a
    column in image pixels. Returns the column indices of each block.
    """
    if not labels:
        return [range(columns)]
    widest = max(text_width(text, SMALL_SIZE) for text in labels)
    most = max(1, int((room + gap) / (max(widest, wide / DPI) + gap)))
    each = math.ceil(columns / math.ceil(columns / most))
    return [range(first, min(first + each, columns)) for first in range(0, columns, each)]


def _scale(available: float, wide: int, high: int, rows: int) -> float:
    """Return the scale of a table, in screen pixels per image pixel.

    A row is `high` image pixels high and `wide` image pixels wide, and may take `available` screen
    pixels of width. Many rows are shrunk to fit the figure's height, but stay at least as high as
    their labels.
    """
    by_width = whole_scale(available, wide)
    least = math.ceil(TEXT_SIZE * _LINE * DPI / (high - PADDING))
    by_height = max(int(_HEIGHT * DPI / (rows * (high - PADDING))), least)
    return min(by_width, float(by_height))

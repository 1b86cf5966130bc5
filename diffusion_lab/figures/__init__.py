"""Figures of diffusion experiments: functions from tensors to matplotlib Figures or image files.

Images are (N, C, H, W), C = 1 or 3, in [0, 1]; points are (N, 2, ...), see points.py. The functions
use no display and no global state, so they work in notebooks, in threads and on machines without a
display.
"""

from diffusion_lab.figures.curves import line_plot, loss_and_grid, loss_curve
from diffusion_lab.figures.files import save_figure, save_gif, save_grid
from diffusion_lab.figures.grid import grid_tensor
from diffusion_lab.figures.images import image_row, labelled_rows, labelled_table, trajectory
from diffusion_lab.figures.log_snr import Band, level_panels
from diffusion_lab.figures.points import (
    moves,
    paths,
    scatter,
    scatter_frames,
    scatter_panels,
    vector_field,
)

__all__ = [
    "Band",
    "grid_tensor",
    "image_row",
    "labelled_rows",
    "labelled_table",
    "level_panels",
    "line_plot",
    "loss_and_grid",
    "loss_curve",
    "moves",
    "paths",
    "save_figure",
    "save_gif",
    "save_grid",
    "scatter",
    "scatter_frames",
    "scatter_panels",
    "trajectory",
    "vector_field",
]

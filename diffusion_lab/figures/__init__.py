"""Figures of diffusion experiments: functions from tensors to matplotlib Figures or image files.

Images are (N, C, H, W), C = 1 or 3, in [0, 1]. The functions use no display and no global state, so
they work in notebooks, in threads and on machines without a display.
"""

from diffusion_lab.figures.curves import line_plot, loss_and_grid, loss_curve
from diffusion_lab.figures.files import save_figure, save_gif, save_grid
from diffusion_lab.figures.grid import grid_tensor
from diffusion_lab.figures.images import image_row, labelled_rows, labelled_table, trajectory
from diffusion_lab.figures.log_snr import Band, level_panels

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
    "save_figure",
    "save_gif",
    "save_grid",
    "trajectory",
]

"""Choose the figures of a kind of data."""

from collections.abc import Callable

from torch import Tensor

from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.sampling.data_figures import DataFigures, ImageFigures
from diffusion_lab.sampling.point_figures import PointFigures


def figures_of(value_range: ValueRange, real: Callable[[], Tensor | None]) -> DataFigures:
    """Return the figures for data of this range; `real` reads real points (N, C, H, W)."""
    return ImageFigures(value_range) if value_range.is_pixels else PointFigures(real())


def figures_of_data(data: ImageDataModule) -> DataFigures:
    """Choose the object that draws figures of this kind of data; call `data.setup()` before."""
    return figures_of(data.value_range, lambda: data.pixels("test"))

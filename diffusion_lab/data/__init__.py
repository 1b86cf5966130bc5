"""Image data: the data sets, their batches, and the range that pixel values are scaled to.

- ``ImageDataModule``: a data set as a LightningDataModule.
- ``ValueRange``: uint8 pixels to network values and back.
- ``ImageSet``: a whole data set in memory; ``load_images`` reads a published one, ``fake_images``
  makes one up.
- ``InMemoryLoader``: batches out of one tensor, in an order that can be resumed.

They are imported on first use, so that the smaller files of this package stay cheap to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion_lab.data.datamodule import ImageDataModule
    from diffusion_lab.data.dataset import ImageSet, fake_images, load_images
    from diffusion_lab.data.loader import InMemoryLoader
    from diffusion_lab.data.value_range import ValueRange

__all__ = [
    "ImageDataModule",
    "ImageSet",
    "InMemoryLoader",
    "ValueRange",
    "fake_images",
    "load_images",
]

_FILES = {
    "ImageDataModule": "datamodule",
    "ImageSet": "dataset",
    "InMemoryLoader": "loader",
    "ValueRange": "value_range",
    "fake_images": "dataset",
    "load_images": "dataset",
}
"""The file of each name."""


def __getattr__(name: str) -> Any:
    if name in _FILES:
        return getattr(import_module(f"diffusion_lab.data.{_FILES[name]}"), name)
    raise AttributeError(f"module 'diffusion_lab.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

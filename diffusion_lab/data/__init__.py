"""Image data: data sets, batches, and the scaling of pixel values.

- ``ImageDataModule``: a data set as a LightningDataModule.
- ``ValueRange``: conversion between uint8 pixels and network values.
- ``ImageSet``: a whole data set; ``load_images`` reads a published one, ``fake_images``
  generates synthetic images.
- ``InMemoryLoader``: batches from a tensor in memory, with resumable shuffling.

Names are imported on first use, so that importing a small file of this package stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion_lab.data.datamodule import ImageDataModule
    from diffusion_lab.data.image_set import ImageSet
    from diffusion_lab.data.loader import InMemoryLoader
    from diffusion_lab.data.sources.fake import fake_images
    from diffusion_lab.data.sources.published import load_images
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
    "ImageSet": "image_set",
    "InMemoryLoader": "loader",
    "ValueRange": "value_range",
    "fake_images": "sources.fake",
    "load_images": "sources.published",
}
"""File in this package that defines each name."""


if not TYPE_CHECKING:  # to a type checker, __getattr__ would make every name valid

    def __getattr__(name: str) -> Any:
        if name in _FILES:
            return getattr(import_module(f"diffusion_lab.data.{_FILES[name]}"), name)
        raise AttributeError(f"module 'diffusion_lab.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

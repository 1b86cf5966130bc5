"""Image data: data sets, batches, and the scaling of pixel values.

- ``ImageDataModule``: a data set as a LightningDataModule.
- ``ValueRange``: conversion between uint8 pixels and network values.
- ``ImageSet``: a whole data set; ``load_images`` reads a published one, ``fake_images``
  generates synthetic images.
- ``InMemoryLoader``: batches from a tensor in memory, with resumable shuffling.

Names are imported on first use, so that importing a small file of this package stays fast.
"""

from typing import TYPE_CHECKING

from diffusion_lab.system.lazy_import import lazy_names

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

_MODULES = {
    "ImageDataModule": "datamodule",
    "ImageSet": "image_set",
    "InMemoryLoader": "loader",
    "ValueRange": "value_range",
    "fake_images": "sources.fake",
    "load_images": "sources.published",
}
"""Module in this package that defines each public name."""

if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)

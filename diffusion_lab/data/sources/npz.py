"""Images in a NumPy archive (.npz)."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.image_set import MAX_CLASSES, ImageSet
from diffusion_lab.data.shape import ImageSize
from diffusion_lab.data.split import split_order
from diffusion_lab.errors import UserError
from diffusion_lab.networks.image_size import height_and_width

_KEYS = {"images": ("images", "arr_0"), "labels": ("labels", "arr_1")}
_TYPES = (np.uint8, np.float32, np.float16)


class NpzImages:
    """Source of data=npz: arrays `images` uint8 (N, C, H, W) and, if labelled, `labels` (N,).

    The test split is in `test_images` and `test_labels`. Without these arrays a fixed random tenth
    of the images is held out. The script sample.py writes such a file (`samples.npz`). Channels may
    also come last, (N, H, W, C), as in the files that other projects publish (`arr_0`, `arr_1`).
    With data.value_range=unbounded the images are float32 or float16.
    """

    def __init__(self, name: str, channels: int, image_size: ImageSize, path: str = "") -> None:
        if not path:
            raise UserError("data.path= is missing: type data.path=<file>.npz")
        self.name, self.channels, self.size = name, channels, height_and_width(image_size)
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise UserError(f"data.path={path} is no file: type data.path=<file>.npz")

    @cached_property
    def num_classes(self) -> int | None:
        """Number of classes, one more than the largest label; None without labels."""
        labels = self._arrays(("labels",)).get("labels")
        return None if labels is None else int(self._labels("labels", labels).max()) + 1

    def prepare(self) -> None:
        """Do nothing, because the file is only read."""

    def read(self) -> ImageSet:
        """Read the images and labels of both splits."""
        arrays = self._arrays(("images", "labels", "test_images", "test_labels"))
        if "images" not in arrays:
            raise UserError(
                f"data.path={self.path} has no array `images`: expected `images` uint8 "
                "(N, C, H, W), and `labels` (N,) if there are classes"
            )
        images, labels = self._split(arrays, "images", "labels")
        if "test_images" in arrays:
            test_images, test_labels = self._split(arrays, "test_images", "test_labels")
            note = "the test split of the file"
            if self.num_classes is not None and test_labels.max() >= self.num_classes:
                raise UserError(
                    f"data.path={self.path}: test_labels go to {test_labels.max()}, labels only to "
                    f"{self.num_classes - 1}; expected test images of the training classes"
                )
        else:
            order = split_order(len(images))
            held_out = max(1, len(images) // 10)
            test_images, test_labels = images[order[-held_out:]], labels[order[-held_out:]]
            kept = order[:-held_out].sort().values
            images, labels = images[kept], labels[kept]
            note = f"{held_out:,} images held out as the test split"
        return ImageSet(
            images, labels, test_images, test_labels, name=self.name, source="npz", note=note
        )

    def _arrays(self, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Read those of the named arrays that the file has; UserError for arrays of objects."""
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                found: dict[str, Any] = {}
                for name in names:
                    key = next((k for k in _KEYS.get(name, (name,)) if k in archive.files), None)
                    if key is not None:
                        found[name] = archive[key]
                return found
        except Exception as error:  # of zip, NumPy's header and pickle
            raise UserError(
                f"data.path={self.path} is damaged or no .npz file of plain arrays "
                f"({type(error).__name__}): write it again with numpy.savez, without arrays of "
                "objects"
            ) from error

    def _split(self, arrays: dict[str, np.ndarray], images: str, labels: str) -> tuple[Tensor, ...]:
        pixels = arrays[images]
        wanted = (self.channels, *self.size)
        if pixels.ndim == 3:
            pixels = pixels[:, None]
        if pixels.ndim == 4 and pixels.shape[1:] == (*self.size, self.channels) != wanted:
            pixels = pixels.transpose(0, 3, 1, 2)
        if pixels.dtype not in _TYPES or pixels.ndim != 4 or pixels.shape[1:] != wanted:
            raise UserError(
                f"data.path={self.path}: {images} is {pixels.dtype} {pixels.shape}; expected uint8 "
                f"(N, {', '.join(map(str, wanted))}), or other data.channels= and "
                "data.image_size=; for real numbers float32 with data.value_range=unbounded"
            )
        if len(pixels) < 2:
            raise UserError(
                f"data.path={self.path}: {images} holds {len(pixels)} images, expected at least 2"
            )
        given = arrays.get(labels)
        classes = np.zeros(len(pixels), np.int64) if given is None else self._labels(labels, given)
        if len(classes) != len(pixels):
            raise UserError(
                f"data.path={self.path} holds {len(pixels)} {images} and {len(classes)} {labels}: "
                "expected one label for each image"
            )
        return torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(classes)

    def _labels(self, name: str, labels: np.ndarray) -> np.ndarray:
        if labels.ndim == 2 and 1 in labels.shape:
            labels = labels.reshape(-1)
        whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer) and labels.size > 0
        if not whole or labels.min() < 0 or labels.max() >= MAX_CLASSES:
            raise UserError(
                f"data.path={self.path}: {name} is {labels.dtype} {labels.shape}; expected whole "
                f"numbers (N,) from 0 to {MAX_CLASSES - 1}"
            )
        return labels.astype(np.int64)

"""CIFAR-10, CIFAR-100 and SVHN, downloaded and verified by torchvision."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from diffusion_lab.data.folder import contents, find_data_dir, may_write
from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.mnist.download import LOCK_TIMEOUT
from diffusion_lab.data.shape import ImageSize
from diffusion_lab.data.split import check_padding
from diffusion_lab.errors import UserError, reason_of

_SIDE = 32
_CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10}


class TorchvisionImages:
    """Source of data=cifar10, cifar100 and svhn: colour images of 32 x 32 pixels.

    Files are expected in the data folder in torchvision's layout. Their MD5 is verified before they
    are read, because CIFAR's files are pickles.
    """

    size = (_SIDE, _SIDE)

    def __init__(
        self,
        name: str,
        source: str,
        data_dir: str | Path | None,
        channels: int,
        image_size: ImageSize | None,
    ) -> None:
        if source not in ("auto", "full"):
            raise UserError(f"data.source={source}: expected auto or full for {name}")
        if channels != 3:
            raise UserError(
                f"data.channels={channels}: the images of {name} have 3 channels; expected "
                "data.channels=3"
            )
        if image_size is not None:
            check_padding(image_size, _SIDE)
        self.name, self.folder = name, find_data_dir(data_dir)
        self.num_classes = _CLASSES[name]
        self._verified: tuple[Any, Any] | None = None
        """What `prepare` has read, until `read` takes it."""

    def prepare(self) -> None:
        """Download the files unless the data folder has them."""
        self._verified = self._found()
        if self._verified is not None:
            return
        if not may_write(self.folder):
            raise UserError(
                f"{self.name} is not in {self.folder}, which holds {contents(self.folder)}; "
                "nothing is downloaded into a folder of other files: type "
                f"paths.data_dir=<folder of {self.name}, or a new folder>"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # torchvision writes in place: one process at a time
            with FileLock(self.folder / ".download.lock", timeout=LOCK_TIMEOUT):
                if self._found() is None:  # another process may have downloaded it meanwhile
                    for train in (True, False):
                        self._dataset(train, download=True)
        except Timeout as error:
            raise UserError(
                f"another process has held {error.lock_file} for {LOCK_TIMEOUT / 60:.0f} minutes: "
                "stop that process, then start again"
            ) from error
        except Exception as error:  # of urllib, http, tarfile, or torchvision's RuntimeError
            raise UserError(
                f"{self.name} is not in {self.folder} and could not be downloaded "
                f"({reason_of(error)}): put torchvision's files there, or use data=mnist "
                "data.source=bundled for 5,000 digits"
            ) from error

    def read(self) -> ImageSet:
        """Read the training and the test split."""
        found, self._verified = self._verified or self._found(), None
        if found is None:
            raise UserError(
                f"{self.name} is not in {self.folder}, or its files are damaged: remove damaged "
                "files and start again, to download the data set"
            )
        train, test = found
        return ImageSet(
            *_tensors(train),
            *_tensors(test),
            name=self.name,
            source="full",
            note="the published training and test splits",
            classes=tuple(getattr(train, "classes", ())),
        )

    def _found(self) -> tuple[Any, Any] | None:
        """Return both splits, verified; None if a file is missing or has another MD5."""
        try:
            return self._dataset(True), self._dataset(False)
        except RuntimeError:
            return None

    def _dataset(self, train: bool, download: bool = False) -> Any:
        from torchvision import datasets

        if self.name == "svhn":
            split = "train" if train else "test"
            return datasets.SVHN(str(self.folder / "SVHN"), split=split, download=download)
        kind = datasets.CIFAR10 if self.name == "cifar10" else datasets.CIFAR100
        return kind(str(self.folder), train=train, download=download)


def _tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Return a torchvision data set as images uint8 (N, 3, 32, 32) and labels int64 (N,)."""
    pixels = dataset.data
    if pixels.shape[-1] == 3:  # CIFAR's have the channels last
        pixels = pixels.transpose(0, 3, 1, 2)
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    return torch.from_numpy(np.ascontiguousarray(pixels)), torch.as_tensor(labels).long()

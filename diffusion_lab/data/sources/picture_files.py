"""Source of images: a folder or zip file of pictures."""

import os
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from diffusion_lab.data.disk_cache import cache_folder
from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.pictures.cache import (
    Plan,
    build_cache,
    is_complete,
    open_cache,
)
from diffusion_lab.data.pictures.decode import MODES, Format, Unreadable, decode
from diffusion_lab.data.pictures.listing import Listing, Pictures, list_pictures
from diffusion_lab.data.shape import ImageSize
from diffusion_lab.errors import UserError, reason_of, unknown_name
from diffusion_lab.networks.image_size import height_and_width

UNREADABLE = ("stop", "skip")


@dataclass(frozen=True)
class FileReader:
    """Pictures of a split, read from a folder or zip file."""

    root: Path
    pictures: Pictures
    wanted: Format
    _archives: dict[int, ZipFile] = field(default_factory=dict, compare=False, repr=False)
    """The open zip file, by process: sharing one would mean sharing its position."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archives": {}}

    @property
    def labels(self) -> np.ndarray:
        """Labels of the pictures, (N,) int64."""
        return self.pictures.labels

    def name(self, index: int) -> str:
        """Return the path of a picture, for messages."""
        return str(self.root / self.pictures.names[index])

    def read(self, index: int) -> np.ndarray:
        """Decode a picture -> uint8 (C, H, W)."""
        return decode(self._opened(), self.pictures.names[index], self.wanted)

    def _opened(self) -> Path | ZipFile:
        if self.root.is_dir():
            return self.root
        if os.getpid() not in self._archives:
            try:
                self._archives[os.getpid()] = ZipFile(self.root)
            except BadZipFile as error:
                raise Unreadable(reason_of(error)) from error
        return self._archives[os.getpid()]


class PictureFiles:
    """The source of data=images: pictures that are decoded once into a cache.

    Args:
        name: name of the data set.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA), more for .npy files.
        image_size: side, or height and width.
        path: a folder or a zip file, see `list_pictures`.
        labelled: auto (folders, if any, are classes), True (require class folders) or False (no
            classes).
        resize: crop, pad or stretch; with None all pictures must have the size `image_size`.
        background: colour behind transparent pixels and of the padding.
        unreadable: stop or skip, for a file that cannot be read.
        cache_dir: folder of the cache; None for the user's cache folder.

    """

    def __init__(
        self,
        name: str,
        channels: int,
        image_size: ImageSize,
        path: str = "",
        labelled: bool | str = "auto",
        resize: str | None = None,
        background: str = "white",
        unreadable: str = "stop",
        cache_dir: str | None = None,
    ) -> None:
        if not path:
            raise UserError("data.path= is missing: type data.path=<folder or zip file>")
        if labelled not in ("auto", True, False):
            raise UserError(f"data.labelled={labelled}: expected auto, true or false")
        self.name, self.path, self.labelled, self.cache_dir = name, path, labelled, cache_dir
        self.size = height_and_width(image_size)
        self.wanted = checked_format(channels, self.size, resize, background, unreadable)
        self.skip = unreadable == "skip"

    @cached_property
    def listing(self) -> Listing:
        """The pictures below `path`, by split and class."""
        listed = list_pictures(self.path, self.labelled)
        names = (*listed.train.names, *(listed.test.names if listed.test else ()))
        picture = next((name for name in names if not name.lower().endswith(".npy")), None)
        if picture is not None:
            check_picture_channels(self.wanted.channels, f"{picture} is a picture")
        return listed

    @property
    def num_classes(self) -> int | None:
        """Number of class folders; None without class folders."""
        return len(self.listing.classes) or None

    @cached_property
    def _folder(self) -> Path:
        about = {
            "files": self.listing.fingerprint,
            "classes": self.listing.classes,
            "format": asdict(self.wanted),
            "skip": self.skip,
            # such pictures were one split without classes in earlier versions
            **({"top": self.listing.top} if self.listing.top else {}),
        }
        return cache_folder("images", self.cache_dir, about)

    def prepare(self) -> None:
        """Decode the pictures, unless a complete cache exists."""
        if is_complete(self._folder):
            return
        listed, wanted = self.listing, self.wanted
        test = None if listed.test is None else FileReader(listed.root, listed.test, wanted)
        if listed.test is None and len(listed.train.names) < 2:
            raise UserError(f"data.path={self.path} holds one picture: expected at least two")
        train = FileReader(listed.root, listed.train, wanted)
        build_cache(self._folder, Plan(self.name, train, test, wanted, self.skip))

    def read(self) -> ImageSet:
        """Return the memory-mapped images of the cache, which is built if it is missing."""
        self.prepare()
        return open_cache(self._folder, self.name, "pictures", self.listing.classes)


def check_picture_channels(channels: int, reason: str) -> None:
    """Raise UserError unless a picture can have this number of channels."""
    if channels not in MODES:
        raise UserError(
            f"data.channels={channels}: expected 1 (gray), 3 (RGB) or 4 (RGBA), because {reason}"
        )


def checked_format(
    channels: int, size: tuple[int, int], resize: str | None, background: str, unreadable: str
) -> Format:
    """Return the Format for these settings; UserError for a setting with an unknown value."""
    if unreadable not in UNREADABLE:
        raise UserError(unknown_name("data.unreadable", unreadable, UNREADABLE))
    wanted = Format(*size, channels, resize, background)
    wanted.check()
    return wanted

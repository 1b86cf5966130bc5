"""Folders of computed data in the user's cache folder, each complete or absent."""

import hashlib
import json
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from diffusion_lab.data.folder import user_cache
from diffusion_lab.errors import UserError

log = logging.getLogger(__name__)

VERSION = 1
_SECONDS_BETWEEN_LINES = 30


def cache_folder(kind: str, cache_dir: str | Path | None, about: Mapping[str, Any]) -> Path:
    """Return the folder of the cache that is made from `about`, which JSON can hold.

    `kind` begins the folder's name, `cache_dir` is its parent, None for the default.
    """
    text = json.dumps({"version": VERSION, **about}, sort_keys=True)
    root = Path(cache_dir).expanduser() if cache_dir else user_cache()
    return root / f"{kind}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def build_folder(
    folder: Path, is_complete: Callable[[Path], bool], fill: Callable[[Path], None]
) -> None:
    """Let `fill` write the files of `folder`, which appears complete or not at all.

    One process builds at a time; the others wait, and find the folder complete. Raises UserError if
    the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if is_complete(folder):  # by another process meanwhile
                return
            part = folder.with_name(f"{folder.name}.part")  # under the lock there is only one
            for leftover in (folder, part):
                shutil.rmtree(leftover, ignore_errors=True)
            part.mkdir()
            try:
                fill(part)
                part.replace(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"the cache {folder} cannot be written ({error.strerror or error}): type "
            "data.cache_dir=<a folder that can be written>"
        ) from error


def check_room(folder: Path, needed: int, what: str, remedy: str) -> None:
    """Raise UserError unless the disk of a cache's folder has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the cache of {what} needs {needed / 2**20:,.0f} MiB, but {folder.parent} has "
            f"{free / 2**20:,.0f} MiB free: type data.cache_dir=<a folder with more room>, or "
            f"{remedy}"
        )


def mapped(file: Path, kind: type[np.generic], shape: tuple[int, ...]) -> Tensor:
    """Map a file of numbers into memory as a tensor that must not be changed.

    It is mapped read-only, because Linux refuses a writable mapping larger than the memory.
    """
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # torch's, of that
        return torch.from_numpy(np.memmap(file, kind, "r", shape=shape))


class Progress:
    """A bar with the time left on a terminal, elsewhere a line every half minute.

    Args:
        total: number of things.
        doing, done: the verb, such as "decoding" and "decoded".
        things: what is counted, in the plural.

    """

    def __init__(self, total: int, doing: str, done: str, things: str) -> None:
        self._bar = tqdm(total=total, desc=doing, unit=f" {things}", disable=None, leave=False)
        self._total, self._count = total, 0
        self._text = f"{things} {done}"
        self._began = self._told = time.monotonic()

    def advance(self, count: int) -> None:
        """Count further things."""
        self._count += count
        self._bar.update(count)
        now = time.monotonic()
        if self._bar.disable and now - self._told > _SECONDS_BETWEEN_LINES:
            self._told = now
            left = (now - self._began) * (self._total / self._count - 1)
            log.info("%d of %d %s, %.0f s left", self._count, self._total, self._text, left)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

"""Read the images of `images=` (files, or images of the run's data such as test:3) and masks."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.data.pictures.decode import MODES, Format, Unreadable, WrongSize, decode
from diffusion_lab.errors import UserError
from diffusion_lab.runs.data import run_data
from diffusion_lab.runs.load import Run

MASKS: dict[str, Callable[[int, int], tuple[slice, slice]]] = {
    "left": lambda h, w: (slice(None), slice(0, w // 2)),
    "right": lambda h, w: (slice(None), slice(w // 2, None)),
    "top": lambda h, w: (slice(0, h // 2), slice(None)),
    "bottom": lambda h, w: (slice(h // 2, None), slice(None)),
    "center": lambda h, w: (slice(h // 4, h - h // 4), slice(w // 4, w - w // 4)),
}
"""Value of mask= -> function from (H, W) to the masked rows and columns."""

_INDEX = re.compile(r"(train|val|test):(\d+)(?:-(\d+))?")


def read_images(
    given: Any, run: Run, data_dir: str | None, data_path: str | None = None
) -> tuple[list[str], Tensor]:
    """Read the images of `images=`; return their names and their pixels, uint8 (N, C, H, W).

    `data_dir` is the folder of the run's data; None for the folder recorded in training. Raises
    UserError for a missing file or index, and for images of another shape than the run's.
    """
    items = [given] if isinstance(given, str) else given
    if not isinstance(items, Sequence) or not items or not all(isinstance(i, str) for i in items):
        raise UserError(
            f"images={given}: expected an image file, an index such as test:3, a range such as "
            "test:0-7, or a list of these, for example images=[test:3,digit.png]"
        )

    @cache
    def pixels(split: str) -> Tensor:
        # without clusters: computing them is slow and does not change the pixels
        return run_data(run, data_dir, data_path, clusters=None).pixels(split)

    names: list[str] = []
    images: list[Tensor] = []
    for item in items:
        match = _INDEX.fullmatch(item)
        if match is None:
            names.append(Path(item).stem)
            background = run.config["data"].get("background") or "white"
            images.append(_read_image("images", item, run.image_shape, background))
            continue
        split, first, last = match[1], int(match[2]), int(match[3] or match[2])
        size = len(pixels(split))
        if last < first:
            raise UserError(
                f"images={item}: expected a first index of at most the last index, both from 0 to "
                f"{size - 1}"
            )
        if last >= size:
            expected = f"an index from 0 to {size - 1}" if size else "another split"
            raise UserError(
                f"images={item}: expected {expected}; this run has {size} {split} images"
            )
        names += [f"{split}:{k}" for k in range(first, last + 1)]
        images += pixels(split)[first : last + 1]
    return names, torch.stack(images)


def read_mask(mask: str, shape: tuple[int, int, int]) -> Tensor:
    """Return a bool mask (H, W): True for known pixels, False for pixels to inpaint.

    `mask` is left, right, top, bottom, center or an image file, in which pixels below 128 of 255
    are known. `shape` is (C, H, W). Raises UserError for a file that is missing, has another size
    or leaves nothing to inpaint.
    """
    if mask in MASKS:
        known = torch.ones(shape[1:], dtype=torch.bool)
        known[MASKS[mask](*shape[1:])] = False
        return known
    known = _read_image("mask", mask, (1, *shape[1:]))[0] < 128
    if known.all():
        raise UserError(f"mask={mask} is all black: expected white pixels in the region to inpaint")
    return known


def _read_image(
    option: str, file: str, shape: tuple[int, int, int], background: str = "white"
) -> Tensor:
    """Read an image file as uint8 (C, H, W) by the rules for pictures to train on.

    `background` is the colour behind transparent pixels. Raises UserError that names the option if
    the file cannot be read or has another size.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        other = f"one of {list(MASKS)}" if option == "mask" else "an index such as test:3"
        raise UserError(f"{option}={file}: no such file; expected an image file or {other}")
    channels, height, width = shape
    wanted = Format(height, width, channels, background=background)
    if channels not in MODES and path.suffix.lower() != ".npy":
        raise UserError(
            f"{option}={file}: image files have 1, 3 or 4 channels, but this run's images have "
            f"{channels}: expected an index of the run's data, for example images=test:3"
        )
    try:
        return torch.from_numpy(decode(path.parent, path.name, wanted).copy())  # writable
    except WrongSize as error:
        raise UserError(
            f"{option}={file}: expected {height} x {width} pixels (height x width) like this run's "
            f"images, got {error}"
        ) from error
    except (Unreadable, OSError) as error:
        raise UserError(
            f"{option}={file} cannot be read as an image ({error}): expected an image file such as "
            "a PNG"
        ) from error

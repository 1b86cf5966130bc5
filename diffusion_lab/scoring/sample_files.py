"""Read samples and their labels from npz files."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import check_pixels


def check_numbers(samples: Tensor) -> None:
    """Raise UserError unless `samples` are finite floats (N, C, H, W)."""
    if samples.ndim != 4 or not samples.is_floating_point():
        raise UserError(
            f"the samples are {samples.dtype} of shape {tuple(samples.shape)}: expected real "
            "numbers, float32 (N, C, H, W), for example (N, 2, 1, 1) for points"
        )
    if not bool(samples.isfinite().all()):
        raise UserError("the samples hold NaN or infinity: expected finite numbers")


def read_samples(
    file: str | Path, num_samples: int | None = None, *, pixels: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Read the first `num_samples` images of an npz, such as samples.npz of scripts/sample.py.

    None reads all images. Returns the images, uint8 (N, C, H, W), and their intended classes (N,)
    or None. With pixels=False they are real numbers, float32 (N, C, H, W). Raises UserError for a
    missing or unsuitable file, and for a file with fewer images.
    """
    try:
        with np.load(file, allow_pickle=False) as npz:
            arrays = {name: npz[name] for name in npz.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(
            f"{file} cannot be read ({reason}): expected an npz with images, uint8 N x C x H x W, "
            "such as the samples.npz of scripts/sample.py"
        ) from error
    if "images" not in arrays:
        raise UserError(f"{file} holds {sorted(arrays)}: expected an array called images")
    if "guidance_scale" in arrays:
        raise UserError(
            f"{file} holds images of several guidance scales: expected images of one scale; sample "
            "again with one scale, for example guidance_scale=1"
        )
    try:
        images = torch.from_numpy(arrays["images"])
        check_pixels(images) if pixels else check_numbers(images)
    except TypeError as error:
        raise UserError(f"{file}: images are {arrays['images'].dtype}, expected uint8") from error
    except UserError as error:
        raise UserError(f"{file} cannot be scored, because {error}") from error
    if pixels and images.numel() and images.max() <= 1:
        raise UserError(
            f"{file}: no pixel is above 1: expected pixels from 0 to 255; convert [0, 1] with "
            "(images * 255).round().astype(numpy.uint8)"
        )
    labels = torch.from_numpy(arrays["labels"]) if "labels" in arrays else None
    if labels is not None and labels.shape != images.shape[:1]:
        raise UserError(
            f"{file}: labels have shape {tuple(labels.shape)}, expected one label for each of "
            f"{len(images)} images"
        )
    wanted = len(images) if num_samples is None else num_samples
    if len(images) < wanted:
        raise UserError(
            f"num_samples={wanted}: expected at most {len(images)}, the number of images in {file}"
        )
    return images[:wanted], None if labels is None else labels[:wanted]

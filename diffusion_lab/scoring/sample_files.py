"""Images that were drawn before, from files."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import check_pixels


def read_samples(file: str | Path, num_samples: int | None = None) -> tuple[Tensor, Tensor | None]:
    """The first `num_samples` images, or all, of a file such as scripts/sample.py's samples.npz.

    -> uint8 (N, C, H, W), and the class that each was asked to be (N,) or None. Raises UserError
    for a file that is not there or is another, and for fewer images than asked for.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            there = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(
            f"{file} cannot be read ({reason}): expected an npz with images, uint8 N x C x H x W, "
            "such as the samples.npz of scripts/sample.py"
        ) from error
    if "images" not in there:
        raise UserError(f"{file} holds {sorted(there)}: expected an array called images")
    if "guidance_scale" in there:
        raise UserError(
            f"{file} holds images of several guidance scales: draw one, guidance_scale=1"
        )
    try:
        images = torch.from_numpy(there["images"])
        check_pixels(images)
    except TypeError as error:
        raise UserError(f"{file}: images are {there['images'].dtype}, expected uint8") from error
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if images.numel() and images.max() <= 1:
        raise UserError(
            f"{file}: no pixel is above 1 of 255; of images in [0, 1] save "
            "(images * 255).round().astype(numpy.uint8)"
        )
    labels = torch.from_numpy(there["labels"]) if "labels" in there else None
    if labels is not None and labels.shape != images.shape[:1]:
        raise UserError(f"{file}: {len(images)} images and labels of shape {tuple(labels.shape)}")
    wanted = len(images) if num_samples is None else num_samples
    if len(images) < wanted:
        raise UserError(f"num_samples={wanted}: {file} holds {len(images)} images")
    return images[:wanted], None if labels is None else labels[:wanted]

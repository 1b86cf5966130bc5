"""Encode a data set once, into memory-mapped float16 files.

A cache is a folder with `train.bin` and `test.bin` (float16, N x C x H x W) and `record.json`. It
is named by the hash of the images and of the VAE, so that other images or weights get another one.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.disk_cache import (
    Progress,
    build_folder,
    cache_folder,
    check_room,
    mapped,
)
from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.latents.decoder import LatentDecoder
from diffusion_lab.data.split import padded
from diffusion_lab.errors import UserError

log = logging.getLogger(__name__)

_RECORD = "record.json"


@dataclass(frozen=True)
class LatentSet:
    """The latents of a data set, not standardised, float16 (N, C, H, W), mapped from files."""

    train: Tensor
    test: Tensor


def encoded(
    data: ImageSet,
    size: tuple[int, int],
    decoder: LatentDecoder,
    cache_dir: str | Path | None,
) -> LatentSet:
    """Return the latents of a data set, after encoding it if there is no complete cache.

    Gives the decoder the mean and standard deviation of each channel over the training images,
    unless it has those of a checkpoint.

    Args:
        data: the images.
        size: (height, width) to which they are padded before.
        decoder: its VAE encodes.
        cache_dir: folder of the cache; None for the user's cache folder.

    Raises:
        UserError: if the VAE cannot be loaded, the cache cannot be written or has too little room,
            and if latents are not finite in float16.

    """
    shape = decoder.vae.latent_shape((data.train_images.shape[1], *size))
    about = {
        "data": data.sha256,
        "vae": decoder.vae.sha256,
        "image_shape": [data.train_images.shape[1], *size],
        "type": "float16",
    }
    folder = cache_folder("latents", cache_dir, about)
    splits = {"train": data.train_images, "test": data.test_images}

    def is_complete(place: Path) -> bool:
        return all(
            _size(place / f"{split}.bin") == 2 * len(images) * int(np.prod(shape))
            for split, images in splits.items()
        ) and bool(_read(place))

    def fill(part: Path) -> None:
        count = sum(map(len, splits.values()))
        needed = 2 * count * int(np.prod(shape))
        check_room(part, needed, f"{count:,} latents", "a smaller data set")
        log.info(
            "encoding %s images of %s by the VAE %s, once, on %s, into %s",
            *(f"{count:,}", data.name, decoder.vae.name, decoder.model.device, folder.parent),
        )
        moments = _Moments(shape[0])
        with Progress(count, "encoding", "encoded", "images") as progress:
            for split, images in splits.items():
                with (part / f"{split}.bin").open("wb") as file:
                    for piece in images.split(decoder.images_at_once(*size)):
                        latents = _encode(decoder, padded(piece, size))
                        file.write(latents.numpy().data)
                        if split == "train":
                            moments.add(latents)
                        progress.advance(len(piece))
        (part / _RECORD).write_text(json.dumps(about | moments.record(), indent=1))

    if not is_complete(folder):
        build_folder(folder, is_complete, fill)
    if decoder.statistics is None:
        decoder.set_statistics(**_read(folder))

    train, test = (
        mapped(folder / f"{split}.bin", np.float16, (len(splits[split]), *shape))
        for split in ("train", "test")
    )
    return LatentSet(train, test)


class _Moments:
    """Mean and standard deviation of each channel, summed in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sums, self.squares = torch.zeros(2, channels, dtype=torch.float64)

    def add(self, latents: Tensor) -> None:
        values = latents.double().transpose(0, 1).flatten(1)  # (C, N H W)
        self.count += values.shape[1]
        self.sums += values.sum(1)
        self.squares += values.square().sum(1)

    def record(self) -> dict[str, list[float]]:
        mean = self.sums / self.count
        std = (self.squares / self.count - mean.square()).clamp(min=0).sqrt()
        # a channel that is always the same stays 0 instead of 0 / 0
        return {"mean": mean.tolist(), "std": torch.where(std > 0, std, 1.0).tolist()}


def _encode(decoder: LatentDecoder, images: Tensor) -> Tensor:
    """Return the latents of uint8 images (N, C, H, W) as float16 on the CPU."""
    latents = decoder.means(images).half()
    if not bool(latents.isfinite().all()):
        raise UserError(
            f"latents={decoder.vae.name}: its latents are not finite in float16: expected a "
            "trained VAE whose latents are at most 65,504"
        )
    return latents.contiguous()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _read(folder: Path) -> dict[str, list[float]]:
    """Return mean and std of a cache's record; {} if it is missing or damaged."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        return {key: [float(value) for value in record[key]] for key in ("mean", "std")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}

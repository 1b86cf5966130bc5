"""Benchmark of folders of pictures: images per second, and the start with many pictures."""

import os
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

from diffusion_lab.benchmark.parts.data_loading import loading_rates
from diffusion_lab.benchmark.parts.open_pictures import CHANNELS, SIDE, picture_data
from diffusion_lab.benchmark.settings import Settings
from diffusion_lab.benchmark.subprocesses import last_json
from diffusion_lab.benchmark.table import Row, Target
from diffusion_lab.benchmark.timing import Comparison
from diffusion_lab.data.sources.fake import NUM_CLASSES, draw_bars

LOADING = Target(50, at_least=True)
START = Target(1.5, at_least=False)
MEMORY = Target(1.2, at_least=False)
FEW = 1_000
MANY = 10_000
"""Number of pictures in the large folder, unless `largest=` sets another."""
OPEN = ("-m", "diffusion_lab.benchmark.parts.open_pictures")


def pictures(settings: Settings, largest: float) -> list[Row]:
    """Measure data=images on JPEG files of 32 x 32 pixels in class folders.

    The first row compares its batches with those of torchvision's ImageFolder. The other rows
    compare the start and the memory of a process that opens a decoded folder of `largest` pictures
    with one of 1,000 pictures.
    """
    many = MANY if largest == float("inf") else max(FEW, int(largest))
    folders = {count: settings.scratch / f"pictures_{count}" for count in (FEW, many)}
    for count, folder in folders.items():
        write_pictures(folder, count)
    cache = settings.scratch / "pictures_cache"
    for folder in folders.values():  # decode the pictures
        data = picture_data(folder, cache, settings.batch_size)
        data.setup("fit")
    baseline: DataLoader[Any] = DataLoader(
        ImageFolder(str(folders[many]), ToTensor()),
        batch_size=settings.batch_size,
        shuffle=True,
        num_workers=settings.threads,
        persistent_workers=True,
    )
    rates, details = loading_rates(settings, baseline, data)
    del data, baseline
    opened = {
        count: [
            last_json(settings, (*OPEN, str(folder), str(cache), str(settings.batch_size)))
            for _ in range(settings.repeats)
        ]
        for count, folder in folders.items()
    }

    def compared(value: str) -> Comparison:
        return Comparison(*(tuple(one[value] for one in opened[count]) for count in (FEW, many)))

    few = f"the same with {FEW:,} pictures"
    return [
        Row(
            "pictures",
            "data=images, decoded",
            f"torchvision's ImageFolder, ToTensor, DataLoader with {settings.threads} workers",
            "images/s",
            rates,
            LOADING,
            details | {"workers": settings.threads},
        ),
        Row(
            "pictures",
            f"start to the first batch, {many:,} decoded pictures",
            few,
            "s",
            compared("seconds"),
            START,
            {"also_counted": "listing the files; imports are not"},
        ),
        Row(
            "pictures",
            f"memory after 50 batches, {many:,} decoded pictures",
            few,
            "MiB",
            compared("memory").map(lambda size: size / 2**20),
            MEMORY,
            {"not_counted": "mapped pages of the cache, which the system frees when it needs room"},
        ),
    ]


def write_pictures(folder: Path, count: int) -> None:
    """Write JPEG files into ten class folders; from the 1,001st on they are links to the first."""
    images, labels = draw_bars(min(count, FEW), SIDE, CHANNELS, torch.Generator().manual_seed(0))
    for label in range(NUM_CLASSES):
        (folder / f"class_{label}").mkdir(parents=True)
    names = [folder / f"class_{label}" for label in labels.tolist()]
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(names[number] / f"{number}.jpg")
    for number in range(len(images), count):
        first = number % len(images)
        os.link(names[first] / f"{first}.jpg", names[first] / f"{number}.jpg")

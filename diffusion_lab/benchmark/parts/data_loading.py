"""Benchmark of data loading: images per second from memory to a float batch on the device."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

from diffusion_lab.benchmark.settings import Settings
from diffusion_lab.benchmark.table import Row, Target
from diffusion_lab.benchmark.timing import Comparison, alternate, timed
from diffusion_lab.benchmark.torchvision_files import write_torchvision_files
from diffusion_lab.benchmark.tutorial_baseline import plain_loader
from diffusion_lab.data.datamodule import ImageDataModule

TARGET = Target(100, at_least=True)


def data_path(settings: Settings) -> list[Row]:
    """Measure images per second of the data module against torchvision's MNIST and DataLoader."""
    data = settings.datamodule()
    root = write_torchvision_files(data, settings.scratch / "data_path")
    comparison, details = loading_rates(settings, plain_loader(root, settings.batch_size), data)
    return [
        Row(
            "data",
            "data path",
            "torchvision's MNIST, ToTensor, DataLoader with shuffle",
            "images/s",
            comparison,
            TARGET,
            details,
        )
    ]


def loading_rates(
    settings: Settings, loader: DataLoader[Any], data: ImageDataModule
) -> tuple[Comparison, dict[str, Any]]:
    """Measure the images per second of a DataLoader and of a data module, with details for a Row.

    Both times include the conversion of the pixels to float32.
    """
    ours, device = data.train_dataloader(), settings.device

    def plain_batches(count: int) -> int:
        total = 0
        for number, (images, _) in enumerate(loader, 1):
            total += len(images.to(device))
            if number == count:
                break
        return total

    def our_epochs(count: int) -> int:
        total = 0
        for _ in range(count):
            for images, labels in ours:
                batch = (images.to(device), labels.to(device))
                total += len(data.on_after_batch_transfer(batch, 0)[0])
        return total

    def rate(work: Callable[[int], int], count: int) -> float:
        images: list[int] = []
        seconds = timed(lambda: images.append(work(count)), device)
        return images[0] / seconds

    plain_batches(1), our_epochs(1)
    half = settings.seconds / 2
    per_batch = settings.batch_size / rate(plain_batches, 10)  # seconds
    batches = min(len(loader), max(1, int(half / settings.repeats / per_batch)))
    size = len(data.pixels("train"))
    epochs = max(1, int(half / settings.repeats / (size / rate(our_epochs, 1))))
    comparison = alternate(
        lambda: rate(plain_batches, batches), lambda: rate(our_epochs, epochs), settings.repeats
    )
    return comparison, {
        "batch_size": settings.batch_size,
        "images": size,
        "baseline_batches_in_a_block": batches,
        "our_epochs_in_a_block": epochs,
        "also_counted": "the scaling to float32 on both sides",
    }

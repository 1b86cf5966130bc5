"""Sanity check of the metrics: print the scores of real and of degraded images."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.evaluation.features.load import load_extractor
from diffusion_lab.evaluation.features.reference import load_reference
from diffusion_lab.evaluation.scorer import ImageScorer

Labelled = tuple[Tensor, Tensor]
"""uint8 images (N, C, H, W) and their labels (N,)."""


def _noised(images: Tensor, std: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(images.shape, generator=generator) * 255 * std
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def degraded_images(images: Tensor, labels: Tensor) -> dict[str, Labelled]:
    """Return sets of labelled images by name: the real images, and degraded versions of them.

    images are uint8 (N, C, H, W), labels (N,). The random degradations use a fixed seed.
    """
    generator = torch.Generator().manual_seed(0)
    kept = labels < 7
    one_class = labels == 3
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=generator)
    # the same number of images, but only a tenth of them distinct
    repeated = torch.arange(len(images)) % max(1, len(images) // 10)
    same: dict[str, Callable[[Tensor], Tensor]] = {
        "real": lambda x: x,
        "blurred (1 pixel)": lambda x: TF.gaussian_blur(x, [7, 7], [1.0, 1.0]),
        "shifted (4 pixels)": lambda x: TF.affine(x, 0, [4, 4], 1, [0, 0]),
        "noisy (0.2 of white)": lambda x: _noised(x, 0.2, generator),
        "pure noise": lambda x: noise,
    }
    return {name: (degrade(images), labels) for name, degrade in same.items()} | {
        "without 7, 8, 9": (images[kept], labels[kept]),
        "only the 3s": (images[one_class], labels[one_class]),
        "a tenth, ten times": (images[repeated], labels[repeated]),
    }


def sanity(scorer: ImageScorer, images: Tensor, labels: Tensor) -> dict[str, dict[str, float]]:
    """Return the scores of the real images and of each degraded set: set -> metric -> score."""
    return {name: scorer(*each).scores for name, each in degraded_images(images, labels).items()}


def floors(scorer: ImageScorer, sizes: tuple[int, ...]) -> list[str]:
    """Return the lines of a Markdown table: the real-data baseline per number of images."""
    lines = []
    for n in sizes:
        baseline = scorer.floor(n)
        values = (
            f"{of.mean:.4g} ± {of.std:.2g}" if of.std else f"{of.mean:.4g}"
            for of in baseline.values()
        )
        lines.append(f"| {n:,} | " + " | ".join(values) + " |")
    return [f"| n | {' | '.join(baseline)} |", "|---" * (len(baseline) + 1) + "|", *lines]


def main() -> None:
    """Score real and degraded images of MNIST with the shipped feature extractor."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--data-dir", type=Path, default=Path(os.environ.get("DIFFUSION_LAB_DATA", "data"))
    )
    parser.add_argument("--extractor", default="mnist_v1")
    arguments = parser.parse_args()
    extractor = load_extractor(arguments.extractor)
    scorer = ImageScorer(extractor, load_reference(extractor))
    print(f"extractor {extractor.name}, sha256 {extractor.sha256[:8]}\n")
    print(*floors(scorer, (1_000, 2_000, 5_000, 10_000)), sep="\n")
    # images that the extractor was not trained on
    data = ImageDataModule(
        "mnist", arguments.data_dir, "full", val_size=len(scorer.reference.train)
    )
    data.setup()
    by_set = sanity(scorer, data.pixels("val"), torch.from_numpy(scorer.reference.train_labels))
    print(f"\n| {len(data.pixels('val')):,} training images | {' | '.join(by_set['real'])} |")
    print("|---" * (len(by_set["real"]) + 1) + "|")
    for name, scores in by_set.items():
        print(f"| {name} | " + " | ".join(f"{value:.4g}" for value in scores.values()) + " |")


if __name__ == "__main__":
    main()

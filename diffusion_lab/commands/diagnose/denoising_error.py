"""Denoising error of a run against the ideal denoiser, by noise level."""

import csv
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from diffusion_lab import figures
from diffusion_lab.config.trusted import construct
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion.ideal_denoiser import ideal_denoiser
from diffusion_lab.diffusion.log_snr import (
    ImpliedWeighting,
    implied_weighting,
    log_snr,
    log_snr_range,
    times_of,
)
from diffusion_lab.diffusion.samplers.base import first_noise, image_generators
from diffusion_lab.diffusion.time_sampling import TimeSampling, UniformTime
from diffusion_lab.errors import UserError
from diffusion_lab.figures import Band
from diffusion_lab.runs.load import Run
from diffusion_lab.sampling.progress import advance
from diffusion_lab.system.atomic import replacing

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Level:
    """Squared errors on x0 at one noise level: mean over pixels, then over n images.

    Errors are in squared units of the run's value range. Fields that end in `_se` are standard
    errors over the images. `gap` is the mean over images of network - ideal. `ideal` and `gap` are
    NaN if the ideal denoiser is undefined for some of the images.
    """

    split: str
    log_snr: float
    t: float
    n: int
    network: float
    network_se: float
    ideal: float
    ideal_se: float
    gap: float
    gap_se: float


def time_sampling(run: Run) -> TimeSampling:
    """Build the run's time sampling, the distribution of noise levels in its training.

    Raises UserError if the saved configuration names a class of another kind.
    """
    made = construct(run.config["model"].get("time_sampling"), run.trust) or UniformTime()
    if not isinstance(made, TimeSampling):
        raise UserError(
            f"model.time_sampling of the saved configuration is a {type(made).__name__}: expected "
            "a TimeSampling; type parts=memorisation to leave out the denoising errors"
        )
    return made


def check_classes(run: Run, data: ImageDataModule, num_images: int, seed: int) -> None:
    """Raise UserError if one of the chosen test images has a class without training images.

    The ideal denoiser is undefined for such a class. `seed` chooses `num_images` test images.
    """
    if run.module.num_classes is None:
        return
    trained = set(data.examples(len(data.pixels("train")))[1].tolist())
    asked = set(data.examples(num_images, seed, "test")[1].tolist())
    if asked - trained:
        raise UserError(
            f"num_images={num_images}: some of the chosen test images have the classes "
            f"{sorted(asked - trained)}, but the run was trained on no images of these classes, so "
            "their ideal denoiser is undefined; type parts=memorisation to leave out the denoising "
            "errors"
        )


@torch.no_grad()
def denoising_errors(
    run: Run, data: ImageDataModule, *, levels: int, num_images: int, batch_size: int, seed: int
) -> list[Level]:
    """Measure the denoising errors of network and ideal denoiser at up to `levels` noise levels.

    The levels are evenly spaced in log-SNR over the range of the training. The seed chooses
    `num_images` images of each split. It also chooses their noise, which is the same at all levels
    and for both splits. The ideal denoiser is the posterior mean over all training images; for a
    conditional network, over the training images of the same class. No denoiser has a smaller
    expected error on the training images.
    """
    module, schedule = run.module, run.module.noise_schedule
    low, high = log_snr_range(time_sampling(run), schedule)
    times = times_of(schedule, torch.linspace(low, high, levels, dtype=torch.float64))
    device = module.device
    images, classes = data.examples(len(data.pixels("train")))
    labels_of_images = None if module.num_classes is None else classes.to(device)
    oracle = ideal_denoiser(schedule, images.to(device), labels_of_images)

    measured: list[Level] = []
    bar = tqdm(total=len(SPLITS) * len(times), unit=" levels", disable=None, leave=False)
    for split in SPLITS:
        x0, labels = (each.to(device) for each in data.examples(num_images, seed, split))
        generators = image_generators(seed, 0, len(x0))
        noise = first_noise(schedule, x0.shape[1:], generators).to(device)
        for t in times:
            errors: list[Tensor] = []
            for first in range(0, len(x0), batch_size):
                part = slice(first, first + batch_size)
                clean, each_t = x0[part], t.to(device).expand(len(x0[part]))
                x_t = schedule.add_noise(clean, noise[part], each_t)
                known = module.network_labels(labels[part])
                estimates = (module.denoise(x_t, each_t, known), oracle(x_t, each_t, known))
                errors.append(torch.stack([_squared(x0_hat - clean) for x0_hat in estimates]))
            level = log_snr(schedule, t[None].double() if t.is_floating_point() else t[None])
            measured.append(_level(split, t, level, torch.cat(errors, 1)))
            bar.update()
            advance(1)
    bar.close()
    return measured


def _squared(difference: Tensor) -> Tensor:
    """Mean square per image, on the CPU since some devices lack float64. (B, C, H, W) -> (B,)."""
    return difference.cpu().double().square().flatten(1).mean(1)


def _level(split: str, t: Tensor, level: Tensor, errors: Tensor) -> Level:
    """Compute means and standard errors over n images at one noise level.

    `level` is the log-SNR at time t. `errors` (2, n) holds the squared errors per image of the
    network and of the ideal denoiser.
    """
    rows = torch.cat([errors, errors[:1] - errors[1:]])
    n = rows.shape[1]
    means, spread = rows.mean(1).tolist(), (rows.std(1) / n**0.5).tolist()
    pairs = [value for pair in zip(means, spread, strict=True) for value in pair]
    return Level(split, level.item(), float(t), n, *pairs)


def write_levels(levels: list[Level], path: Path) -> None:
    """Write a CSV with one row for each split and level."""
    with replacing(path) as part, part.open("w", newline="") as file:
        rows = csv.DictWriter(file, list(asdict(levels[0])))
        rows.writeheader()
        rows.writerows(asdict(level) for level in levels)


def weighting_of(run: Run) -> ImpliedWeighting:
    """Compute the weighting that the run's objective implies, as a function of log-SNR."""
    module = run.module
    return implied_weighting(
        time_sampling(run), module.noise_schedule, module.weighting, module.prediction
    )


def levels_figure(levels: list[Level], implied: ImpliedWeighting) -> Figure:
    """Plot errors, gaps to the ideal denoiser, loss fractions and implied weightings by log-SNR."""
    names = {"train": "training", "test": "test"}
    by_split = {split: [level for level in levels if level.split == split] for split in SPLITS}

    def band(split: str, kind: str) -> Band:
        levels = by_split[split]
        y, se = (np.array([getattr(v, k) for v in levels]) for k in (kind, f"{kind}_se"))
        return Band([level.log_snr for level in levels], y, 2 * se)

    errors, gaps = {}, {}
    for split, name in names.items():
        errors[name] = band(split, "network")
        gaps[name] = band(split, "gap")
        errors[f"{name}, ideal denoiser"] = band(split, "ideal")
    train = band("train", "network")
    level = np.array(train.x)
    weight = np.interp(level, implied.log_snr, implied.on_x0)
    fractions = {}
    for name, kind in (("of the loss", "network"), ("of the gap to the ideal", "gap")):
        part = weight * band("train", kind).y
        area = np.trapezoid(part[np.argsort(level)], np.sort(level))
        if area > 0:
            fractions[name] = Band(level, part / area)
    seen = (implied.log_snr >= level.min()) & (implied.log_snr <= level.max())
    weights = {
        name: Band(implied.log_snr[seen], curve[seen] / curve[seen].max())
        for name, curve in (
            ("on the x0 loss", implied.on_x0),
            ("on the epsilon loss", implied.on_epsilon),
        )
    }
    gap, fraction = "network - ideal denoiser", "fraction of the training loss per unit of log-SNR"
    panels = {
        "squared error on x0": errors,
        gap: gaps,
        fraction: fractions,
        "implied weighting (maximum 1)": weights,
    }
    return figures.level_panels(panels, linear=(gap, fraction))

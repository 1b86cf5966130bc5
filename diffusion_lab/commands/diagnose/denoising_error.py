"""How far a run's denoiser is from the best there is, by noise level."""

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
    """The squared errors on x0 at one noise level, means over images of the mean over pixels.

    In the value range of the run. Each with its standard error; `gap` is network - ideal, image by
    image. The ideal denoiser's are nan where it is undefined for some of the images.
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
    """How the run's training drew its noise levels."""
    made = construct(run.config["model"].get("time_sampling"), run.trust) or UniformTime()
    if not isinstance(made, TimeSampling):
        raise UserError("the saved configuration's time_sampling is no TimeSampling")
    return made


def check_classes(run: Run, data: ImageDataModule, num_images: int, seed: int) -> None:
    """Raise UserError where the ideal denoiser of a class would be that of no image."""
    if run.module.num_classes is None:
        return
    trained = set(data.examples(len(data.pixels("train")))[1].tolist())
    asked = set(data.examples(num_images, seed, "test")[1].tolist())
    if asked - trained:
        raise UserError(
            f"num_images={num_images}: the run was trained on no images of the classes "
            f"{sorted(asked - trained)}, which the test images chosen have: use parts=memorisation"
        )


@torch.no_grad()
def denoising_errors(
    run: Run, data: ImageDataModule, *, levels: int, num_images: int, batch_size: int, seed: int
) -> list[Level]:
    """Measure at up to `levels` log-SNRs, evenly over those that training draws.

    `num_images` images of a split, chosen by the seed, each with one noise, the same at all levels
    and for both splits. The ideal denoiser is that of all images the run was trained on, of an
    image's class where the network is told the class: its expected error is the least that any
    denoiser has on the training images.
    """
    module, schedule = run.module, run.module.noise_schedule
    low, high = log_snr_range(time_sampling(run), schedule)
    times = times_of(schedule, torch.linspace(low, high, levels, dtype=torch.float64))
    device = module.device
    images, classes = data.examples(len(data.pixels("train")))
    cli_errors = module.num_classes is not None
    oracle = ideal_denoiser(schedule, images.to(device), classes.to(device) if cli_errors else None)

    found: list[Level] = []
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
                seen = module.network_labels(labels[part])
                guesses = (module.denoise(x_t, each_t, seen), oracle(x_t, each_t, seen))
                errors.append(torch.stack([_squared(guess - clean) for guess in guesses]))
            level = log_snr(schedule, t[None].double() if t.is_floating_point() else t[None])
            found.append(_level(split, t, level, torch.cat(errors, 1)))
            bar.update()
            advance(1)
    bar.close()
    return found


def _squared(difference: Tensor) -> Tensor:
    """Mean square per image, on the CPU: not every device knows float64. (B, C, H, W) -> (B,)."""
    return difference.cpu().double().square().flatten(1).mean(1)


def _level(split: str, t: Tensor, level: Tensor, errors: Tensor) -> Level:
    """Means and standard errors of the two rows of errors (2, n), and of their difference."""
    rows = torch.cat([errors, errors[:1] - errors[1:]])
    n = rows.shape[1]
    means, spread = rows.mean(1).tolist(), (rows.std(1) / n**0.5).tolist()
    pairs = [value for pair in zip(means, spread, strict=True) for value in pair]
    return Level(split, level.item(), float(t), n, *pairs)


def write_levels(found: list[Level], path: Path) -> None:
    """Write them as CSV, one line a level and split."""
    with replacing(path) as part, part.open("w", newline="") as file:
        rows = csv.DictWriter(file, list(asdict(found[0])))
        rows.writeheader()
        rows.writerows(asdict(level) for level in found)


def weighting_of(run: Run) -> ImpliedWeighting:
    """What the run's objective asked for at every noise level."""
    module = run.module
    return implied_weighting(
        time_sampling(run), module.noise_schedule, module.weighting, module.prediction
    )


def levels_figure(found: list[Level], implied: ImpliedWeighting) -> Figure:
    """Errors, their gap to the ideal denoiser's, the shares of the loss, and its weighting."""
    names = {"train": "training", "test": "test"}
    by_split = {split: [level for level in found if level.split == split] for split in SPLITS}

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
    shares = {}
    for name, kind in (("of the loss", "network"), ("of the gap to the ideal", "gap")):
        part = weight * band("train", kind).y
        area = np.trapezoid(part[np.argsort(level)], np.sort(level))
        if area > 0:
            shares[name] = Band(level, part / area)
    seen = (implied.log_snr >= level.min()) & (implied.log_snr <= level.max())
    weights = {
        name: Band(implied.log_snr[seen], curve[seen] / curve[seen].max())
        for name, curve in (
            ("on the x0 loss", implied.on_x0),
            ("on the epsilon loss", implied.on_epsilon),
        )
    }
    gap, share = "network - ideal denoiser", "share in training, per unit of log-SNR"
    panels = {
        "squared error on x0": errors,
        gap: gaps,
        share: shares,
        "implied weighting, largest = 1": weights,
    }
    return figures.level_panels(panels, linear=(gap, share))

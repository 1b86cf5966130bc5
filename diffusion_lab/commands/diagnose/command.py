"""scripts/diagnose.py: denoising error and memorisation of a trained run."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.commands.diagnose.denoising_error import (
    SPLITS,
    Level,
    check_classes,
    denoising_errors,
    levels_figure,
    weighting_of,
    write_levels,
)
from diffusion_lab.commands.diagnose.memorisation import (
    Describe,
    Memorisation,
    distances_figure,
    in_pixels,
    memorisation,
    write_nearest,
)
from diffusion_lab.config.schema import DiagnoseConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion import Sampler
from diffusion_lab.errors import UserError, unknown_name
from diffusion_lab.evaluation.features.load import load_extractor
from diffusion_lab.runs.data import run_data
from diffusion_lab.runs.load import Run
from diffusion_lab.runs.sampling_options import chosen_sampler, open_run
from diffusion_lab.sampling.choose_figures import figures_of_data
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.sampling.description import planned
from diffusion_lab.sampling.progress import planned_work, times
from diffusion_lab.scoring.sample_files import read_samples
from diffusion_lab.system.device import choose_device
from diffusion_lab.system.output import results_folder, write_json

PARTS = ("all", "losses", "memorisation")
UNDEFINED = (
    "uniform noise is bounded, so some of these noised images cannot come from any training image, "
    "and the ideal denoiser is undefined for them"
)


@dataclass
class Diagnosis:
    """Result of diagnose.py: denoising errors, memorisation and notes."""

    out: Path
    """The folder with diagnose.json, tables and figures."""
    levels: list[Level] | None = None
    memorisation: Memorisation | None = None
    notes: list[str] = field(default_factory=list)
    sampling: str | None = None
    """Sampler, steps and guidance of the samples; None if samples= gives the samples."""

    @property
    def lines(self) -> list[str]:
        """The lines to print: tables and notes."""
        tables = [] if self.levels is None else _levels_table(self.levels)
        if self.memorisation is not None:
            tables += [] if self.sampling is None else [f"samples: {self.sampling}"]
            tables += _closeness_table(self.memorisation.measured)
        return tables + [f"note: {note}" for note in self.notes]


def _levels_table(levels: list[Level]) -> list[str]:
    lines = [
        "squared error on x0       training images                  test images",
        "  log-SNR    network     ideal net - ideal     network     ideal net - ideal",
    ]
    half = len(levels) // 2
    for pair in zip(levels[:half], levels[half:], strict=True):
        numbers = (f"{each.network:9.2e} {each.ideal:9.2e} {each.gap:+11.2e}" for each in pair)
        lines.append(f"{pair[0].log_snr:9.2f}  {'   '.join(numbers)}")
    return lines


def _closeness_table(measured: dict[str, Any]) -> list[str]:
    lines = ["fraction nearer to training images than  samples  held out  expected"]
    for key, than, expected in (
        ("below_1", "1st percentile of test images", "0.010"),
        ("below_5", "5th percentile of test images", "0.050"),
        ("below_50", "median of test images", "0.500"),
        ("closer", "a random test image", "0.500"),
        ("copies", "1/3 of second-nearest distance", ""),
    ):
        val = "" if measured["val"] is None else f"{measured['val'][key]:.3f}"
        lines.append(f"  {than:37}{measured['samples'][key]:9.3f} {val:>9} {expected:>9}".rstrip())
    return lines


def diagnose(cfg: DictConfig) -> Diagnosis:
    """Compare a run with the ideal denoiser, and its samples with its training images.

    Raises UserError for a mistake in the configuration, before anything is computed or written.
    """
    validate(cfg, DiagnoseConfig)
    if cfg.parts not in PARTS:
        raise UserError(unknown_name("parts", cfg.parts, PARTS))
    run = open_run(cfg)
    config, sampler = chosen_sampler(run, cfg.sampler)
    conditioning = run.conditioning()
    given = None if cfg.samples is None else _read_samples(cfg.samples, run)
    if cfg.extractor is not None:
        run.value_range.check_pixels("an extractor", "leave out extractor=")
    describe = in_pixels if cfg.extractor is None else _features(cfg.extractor)
    describe(torch.zeros(1, *run.image_shape, dtype=torch.uint8))  # UserError for an unfit shape
    data = run_data(run, **cfg.paths)
    if cfg.parts != "memorisation":
        check_classes(run, data, cfg.num_images, cfg.seed)
    run.module.to(choose_device(cfg.accelerator))
    result = Diagnosis(results_folder(cfg.out, run.dir / "diagnosis"))

    record: dict[str, Any] = {
        "run": str(run.dir),
        "checkpoint": cfg.checkpoint,
        "weights": run.weights,
        "seed": cfg.seed,
        "data": data.provenance,
        "value_range": run.value_range.name,
    }
    seconds: dict[str, float] = {}
    if cfg.parts in ("all", "losses"):
        began = time.perf_counter()
        record["losses"] = _losses(cfg, run, data, result)
        seconds["losses"] = time.perf_counter() - began
    if cfg.parts in ("all", "memorisation"):
        began = time.perf_counter()
        samples = given
        if samples is None:
            samples = _sample(cfg, run, sampler, conditioning)
            result.sampling = planned(config, sampler, [conditioning], run.module, run.value_shape)
        record["memorisation"] = {
            "samples_from": cfg.samples,
            "sampler": config if given is None else None,
            "guidance_scale": conditioning.guidance_scale if given is None else None,
            **_memorisation(cfg, samples, data, describe, result, run),
        }
        seconds["memorisation"] = time.perf_counter() - began
    record["notes"] = result.notes
    record["seconds"] = {part: round(value, 3) for part, value in seconds.items()}
    write_json(result.out / "diagnose.json", record)
    return result


def _losses(cfg: DictConfig, run: Run, data: ImageDataModule, result: Diagnosis) -> dict[str, Any]:
    line = (
        f"losses: network and ideal denoiser (of {times(len(data.pixels('train')), 'image')}) on "
        f"{times(cfg.num_images, 'image')} of each split at {times(cfg.levels, 'noise level')}"
    )
    with planned_work(line, len(SPLITS) * cfg.levels):
        levels = denoising_errors(
            run,
            data,
            levels=cfg.levels,
            num_images=cfg.num_images,
            batch_size=cfg.batch_size,
            seed=cfg.seed,
        )
    result.levels = levels
    write_levels(levels, result.out / "denoising.csv")
    figures.save_figure(levels_figure(levels, weighting_of(run)), result.out / "denoising.png")
    undefined = {level.split for level in levels if np.isnan(level.ideal)}
    result.notes += [f"{split} images: {UNDEFINED}" for split in sorted(undefined)]
    # JSON has no NaN
    return {
        "levels": [{k: None if v != v else v for k, v in asdict(level).items()} for level in levels]
    }


def _read_samples(file: str, run: Run) -> Tensor:
    images, _ = read_samples(file, pixels=run.value_range.is_pixels)
    shape = run.image_shape
    if tuple(images.shape[1:]) != shape or not len(images):
        raise UserError(
            f"samples={file}: expected images of this run's shape, (N, "
            f"{', '.join(map(str, shape))}), got {tuple(images.shape)}"
        )
    return images


def _sample(cfg: DictConfig, run: Run, sampler: Sampler, conditioning: Conditioning) -> Tensor:
    line = f"memorisation: sampling {times(cfg.num_samples, 'image')} with {sampler.name}"
    with planned_work(line, cfg.num_samples * sampler.num_steps):
        return run.sample(
            cfg.num_samples,
            seed=cfg.seed,
            sampler=sampler,
            conditioning=conditioning,
            batch_size=cfg.batch_size,
        )


def _memorisation(
    cfg: DictConfig,
    samples: Tensor,
    data: ImageDataModule,
    describe: Describe,
    result: Diagnosis,
    run: Run,
) -> dict[str, Any]:
    measured = memorisation(
        samples, data, num_held_out=cfg.num_held_out, seed=cfg.seed, describe=describe
    )
    result.memorisation = measured
    own = "pixels in [0, 1]" if run.value_range.is_pixels else "coordinates"
    what = own if cfg.extractor is None else f"features of {cfg.extractor}"
    write_nearest(measured.samples, result.out / "nearest.csv")
    figure = figures_of_data(data).nearest(samples, data.pixels("train"), measured.samples)
    figures.save_figure(figure, result.out / "nearest.png")
    curves = {"samples": measured.samples, "test images": measured.test}
    if measured.val is None:
        result.notes.append("no held-out training images, as the run has data.val_size=0")
    else:
        curves["held-out training images"] = measured.val
    figures.save_figure(distances_figure(curves, what), result.out / "distances.png")
    return {
        "distance": what,
        "num_samples": len(samples),
        "num_train": len(data.pixels("train")),
        "num_test": len(measured.test.distance),
        "num_val": 0 if measured.val is None else len(measured.val.distance),
        **measured.measured,
        "expected": {"below_1": 0.01, "below_5": 0.05, "below_50": 0.5, "closer": 0.5},
    }


def _features(name: str) -> Describe:
    extractor = load_extractor(name)
    return lambda images: extractor(images).values

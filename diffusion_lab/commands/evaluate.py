"""scripts/evaluate.py: score samples of a model, with real images as a baseline."""

import logging
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.groups import chosen_sampler_word
from diffusion_lab.config.schema import EvaluateConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion.guidance import EVERYWHERE
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.scorer import Scorer
from diffusion_lab.runs.data import named_data
from diffusion_lab.runs.load import Run
from diffusion_lab.runs.model_card import claimed_scores
from diffusion_lab.runs.sampling_options import chosen_sampler, open_model, read_conditionings
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.sampling.description import planned
from diffusion_lab.sampling.progress import planned_work, say, times
from diffusion_lab.scoring.choose_scorer import choose_scorer, choose_scorer_of_data
from diffusion_lab.scoring.draw_set import SampleSet, draw_set
from diffusion_lab.scoring.sample_files import read_samples
from diffusion_lab.scoring.score_sets import Evaluation, read_seeds, score_sets
from diffusion_lab.system.device import choose_device
from diffusion_lab.system.output import results_folder
from diffusion_lab.system.precision import check_precision, chosen_precision

log = logging.getLogger(__name__)
NUM_SAMPLES = 10_000
SEEDS = 3
_SAMPLING_OPTIONS = (
    "checkpoint",
    "weights",
    "trust",
    "labels",
    "guidance_scale",
    "guidance_interval",
    "autoguidance",
    "seeds",
    "batch_size",
    "precision",
)
"""Options that images= rejects, because its images are sampled already."""


def evaluate(cfg: DictConfig) -> Evaluation:
    """Score images of a run, a pipeline or files; write evaluation.json and samples.png.

    Raises UserError for a mistake in the configuration, before anything is sampled or written.
    """
    validate(cfg, EvaluateConfig)
    check_precision(cfg.precision)
    if sum(bool(cfg[name]) for name in ("run", "pipeline", "images")) != 1:
        raise UserError(
            "expected one of run=, pipeline= and images=: type run=logs/runs/<name> to sample from "
            "a run, pipeline=<folder> for a diffusers pipeline, or images=<samples.npz> to score "
            "existing samples"
        )
    if cfg.run and cfg.data is not None:
        raise UserError(
            "data= works with pipeline= and images= only, because a run is scored against the data "
            "set that it was trained on: leave out data="
        )
    return _evaluate_files(cfg) if cfg.images else _evaluate_model(cfg)


def _evaluate_model(cfg: DictConfig) -> Evaluation:
    """Sample from a run or a pipeline with each seed and score the images."""
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    seeds = read_seeds(SEEDS if plain["seeds"] is None else plain["seeds"])
    n = NUM_SAMPLES if cfg.num_samples is None else cfg.num_samples
    run = open_model(cfg)
    config, sampler = chosen_sampler(run, cfg.sampler)
    conditioning = read_conditionings(cfg, run)[0]
    device = choose_device(cfg.accelerator)
    scorer = _scorer(cfg, device, run)
    _check_number(n, scorer)
    run.module.to(device)
    if conditioning.weak is not None:
        conditioning.weak.to(device)
    out = results_folder(cfg.out, run.dir / "evaluation")
    about = {
        "sampling": planned(config, sampler, [conditioning], run.module, run.value_shape),
        "run": str(run.dir),
        "checkpoint": cfg.checkpoint if cfg.run else None,
        **({"claimed": claimed_scores(run.dir)} if cfg.pipeline else {}),
        "weights": run.weights,
        "sampler": config,
        "labels": list(conditioning.labels),
        "guidance_scale": conditioning.guidance_scale,
        "guidance_interval": plain["guidance_interval"] or _interval(conditioning),
        "autoguidance": cfg.autoguidance,
        "num_samples": n,
        "seeds": seeds,
        "batch_size": cfg.batch_size,
        "device": str(device),
        "precision": chosen_precision(cfg.precision, device),
        "threads": torch.get_num_threads(),
    }
    draws = [
        partial(
            draw_set,
            run,
            sampler,
            conditioning,
            num_samples=n,
            seed=seed,
            batch_size=cfg.batch_size,
            precision=cfg.precision,
        )
        for seed in seeds
    ]
    line = (
        f"sampling {times(n, scorer.unit)} for each of {times(len(seeds), 'seed')} with "
        f"{chosen_sampler_word(config)} in "
        f"{times(sampler.num_steps, 'step')}, then scoring them with {scorer.name}"
    )
    with planned_work(line, len(seeds) * n * sampler.num_steps):
        return score_sets(scorer, draws, about, out)


def _interval(conditioning: Conditioning) -> list[float] | None:
    """Return the guidance interval for evaluation.json; None if it covers all noise levels."""
    return None if conditioning.interval == EVERYWHERE else list(conditioning.interval)


def _evaluate_files(cfg: DictConfig) -> Evaluation:
    """Score the images in the files `cfg.images`, one file for each seed."""
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    given = [name for name in _SAMPLING_OPTIONS if plain[name] != getattr(EvaluateConfig(), name)]
    given += ["sampler"] if any(value is not None for value in plain["sampler"].values()) else []
    if given:
        raise UserError(
            f"{given[0]}= has no effect on images=, because these images are sampled already: "
            f"leave out {given[0]}="
        )
    files = [plain["images"]] if isinstance(plain["images"], str) else plain["images"]
    data = _named(cfg)
    pixels = data is None or data.value_range.is_pixels
    sets = [read_samples(file, cfg.num_samples, pixels=pixels) for file in files]
    if len({images.shape for images, _ in sets}) > 1 or len({a is None for _, a in sets}) > 1:
        shapes = [tuple(images.shape) for images, _ in sets]
        raise UserError(
            f"images=: the files hold arrays of shapes {shapes}: expected the same shape in every "
            "file, with labels in all files or in none"
        )
    images = sets[0][0]
    if len(images) < 2:
        raise UserError(f"images={files[0]} holds {len(images)} images: expected at least 2")
    channels, height, width = images.shape[1:]
    device = choose_device(cfg.accelerator)
    scorer = _scorer_of_data(cfg, device, (channels, height, width), data)
    for each, _ in sets:
        scorer.check_samples(each)
    _check_number(len(images), scorer)
    out = results_folder(cfg.out, Path(files[0]).expanduser().parent / "evaluation")
    about = {"images": files, "num_samples": len(images), "seeds": files}
    draws = [partial(SampleSet, images, asked) for images, asked in sets]
    say(
        f"scoring {times(len(sets), 'set')} of {times(len(images), scorer.unit)} with {scorer.name}"
    )
    return score_sets(scorer, draws, about, out)


def _scorer(cfg: DictConfig, device: torch.device, run: Run) -> Scorer:
    """Build the scorer: a run is scored against its own data, a pipeline against data=."""
    if "data" not in run.config:
        return _scorer_of_data(cfg, device, run.image_shape, _named(cfg))
    return choose_scorer(cfg.extractor, run, **cfg.paths, moments=cfg.reference, device=device)


def _named(cfg: DictConfig) -> ImageDataModule | None:
    """Build the data set of data=, of which nothing is loaded yet; None if it is not given."""
    if cfg.data is None:
        return None
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg.data, resolve=True))
    return named_data(settings, cfg.paths.data_dir)


def _scorer_of_data(
    cfg: DictConfig,
    device: torch.device,
    image_shape: tuple[int, int, int],
    module: ImageDataModule | None,
) -> Scorer:
    """Build a scorer of images (C, H, W) against those of a data set, or against reference=."""
    data, pixels = None, True
    if module is not None:
        if module.image_shape != image_shape:
            channels, height, width = module.image_shape
            raise UserError(
                f"data={module.dataset} has images of {channels}x{height}x{width}, expected "
                f"{'x'.join(map(str, image_shape))} like the samples: type "
                f"data.channels={image_shape[0]} 'data.image_size={list(image_shape[1:])}', or "
                "choose another data set with data="
            )
        data, pixels = (module.dataset, partial(_fetched, module)), module.value_range.is_pixels
    scorer = choose_scorer_of_data(
        cfg.extractor, data, pixels=pixels, moments=cfg.reference, device=device
    )
    scorer.check(image_shape)
    return scorer


def _fetched(module: ImageDataModule) -> ImageDataModule:
    """Download the missing files of a data set; return its data module."""
    module.prepare_data()
    return module


def _check_number(num_samples: int, scorer: Scorer) -> None:
    """Raise UserError if FID is the only metric and needs more samples.

    FID is the only metric for a reference of moments, without real images.
    """
    if not scorer.num_test and num_samples < scorer.least:
        raise UserError(
            f"num_samples={num_samples}: expected at least {scorer.least:,} with reference=, "
            f"because FID needs more images than extractor {scorer.name} has features"
        )

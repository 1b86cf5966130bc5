"""scripts/evaluate.py: score samples of a run, and the same number of real images as a baseline."""

import logging
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.groups import sampler_word
from diffusion_lab.config.schema import EvaluateConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.diffusion.guidance import EVERYWHERE
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.load import load_extractor
from diffusion_lab.evaluation.features.reference import load_reference
from diffusion_lab.evaluation.scorer import ImageScorer
from diffusion_lab.runs.sampling_options import chosen_sampler, open_run, read_conditionings
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.sampling.description import planned
from diffusion_lab.sampling.progress import planned_work, say, times
from diffusion_lab.scoring.choose_scorer import choose_scorer
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
    "accelerator",
    "precision",
)
"""Options that are rejected with images=, whose samples exist already."""


def evaluate(cfg: DictConfig) -> Evaluation:
    """Score the images of each seed, sampled or read; write evaluation.json and samples.png.

    Raises UserError for a mistake in the configuration, before anything is sampled or written.
    """
    validate(cfg, EvaluateConfig)
    check_precision(cfg.precision)
    if bool(cfg.run) == bool(cfg.images):
        raise UserError(
            "expected one of run= and images=: type run=logs/runs/<name> to sample from a run, or "
            "images=<samples.npz> to score existing samples"
        )
    return _evaluate_run(cfg) if cfg.run else _evaluate_files(cfg)


def _evaluate_run(cfg: DictConfig) -> Evaluation:
    """Sample from the run `cfg.run` with each seed and score the images."""
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    seeds = read_seeds(SEEDS if plain["seeds"] is None else plain["seeds"])
    n = NUM_SAMPLES if cfg.num_samples is None else cfg.num_samples
    run = open_run(cfg)
    config, sampler = chosen_sampler(run, cfg.sampler)
    conditioning = read_conditionings(cfg, run)[0]
    scorer = choose_scorer(cfg.extractor, run, cfg.paths.data_dir)
    device = choose_device(cfg.accelerator)
    run.module.to(device)
    if conditioning.weak is not None:
        conditioning.weak.to(device)
    out = results_folder(cfg.out, run.dir / "evaluation")
    about = {
        "sampling": planned(config, sampler, [conditioning], run.module, run.image_shape),
        "run": str(run.dir),
        "checkpoint": cfg.checkpoint,
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
        f"sampling {times(n, 'image')} for each of {times(len(seeds), 'seed')} with "
        f"{sampler_word(config)} in "
        f"{times(sampler.num_steps, 'step')}, then scoring them with {scorer.extractor.name}"
    )
    with planned_work(line, len(seeds) * n * sampler.num_steps):
        return score_sets(scorer, draws, about, out)


def _interval(conditioning: Conditioning) -> list[float] | None:
    """Return the guidance interval for the record, None for all noise levels."""
    return None if conditioning.interval == EVERYWHERE else list(conditioning.interval)


def _evaluate_files(cfg: DictConfig) -> Evaluation:
    """Score the images in the files `cfg.images`, one file for each seed."""
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    given = [name for name in _SAMPLING_OPTIONS if plain[name] != getattr(EvaluateConfig(), name)]
    given += ["sampler"] if any(value is not None for value in plain["sampler"].values()) else []
    if given:
        raise UserError(
            f"{given[0]}= has no effect on images=, which are sampled already: leave out "
            f"{given[0]}="
        )
    if cfg.extractor is None:
        raise UserError(
            "images= needs extractor=, because the files do not name their data set: type for "
            "example extractor=mnist_v1"
        )
    files = [plain["images"]] if isinstance(plain["images"], str) else plain["images"]
    sets = [read_samples(file, cfg.num_samples) for file in files]
    if len({images.shape for images, _ in sets}) > 1 or len({a is None for _, a in sets}) > 1:
        shapes = [tuple(images.shape) for images, _ in sets]
        raise UserError(
            f"images=: the files hold arrays of shapes {shapes}: expected the same shape in every "
            "file, with labels in all files or in none"
        )
    images = sets[0][0]
    if len(images) < 2:
        raise UserError(f"images={files[0]} holds {len(images)} images: expected at least 2")
    extractor = load_extractor(cfg.extractor)
    for each, _ in sets:
        extractor.fit(each)  # raises UserError for images that the extractor cannot take
    scorer = ImageScorer(extractor, load_reference(extractor))
    out = results_folder(cfg.out, Path(files[0]).expanduser().parent / "evaluation")
    about = {"images": files, "num_samples": len(images), "seeds": files}
    draws = [partial(SampleSet, images, asked) for images, asked in sets]
    say(f"scoring {times(len(sets), 'set')} of {times(len(images), 'image')} with {extractor.name}")
    return score_sets(scorer, draws, about, out)

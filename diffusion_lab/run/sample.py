"""Images from a trained run, and the pictures of how they came about."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.callbacks.pictures import trajectory_figure, visible
from diffusion_lab.diffusion import Sampler, Step, sample_steps
from diffusion_lab.errors import UserError
from diffusion_lab.run.build import build
from diffusion_lab.run.check import check_config, check_keys, check_seed
from diffusion_lab.run.load import Run, load_run
from diffusion_lab.run.record import write_json
from diffusion_lab.run.results import (
    check_run_given,
    move_to_device,
    results_folder,
    save_arrays,
)
from diffusion_lab.schema import SampleConfig

log = logging.getLogger(__name__)

MAX_FRAMES = 60
SHOWN = 64  # images in the grid and the animation


@dataclass
class Samples:
    """What was drawn."""

    images: Tensor
    """uint8, (N, C, H, W), on the CPU."""
    out: Path
    """The folder with the pictures and samples.npz."""


def sampler_config(run_config: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The run's own sampler with the settings given; a sampler given whole stands alone."""
    settings = {key: value for key, value in given.items() if value is not None}
    return settings if "_target_" in settings else run_config["sampler"] | settings


def draw(
    run: Run, sampler: Sampler, *, num_samples: int, batch_size: int, seed: int
) -> tuple[Tensor, list[Step]]:
    """Draw images as uint8 (N, C, H, W), and about MAX_FRAMES steps of the first SHOWN of them.

    Image k depends on the seed and k alone.
    """
    every = -(-sampler.num_steps // MAX_FRAMES)
    images: list[Tensor] = []
    walk: list[Step] = []
    for first in range(0, num_samples, batch_size):
        steps = sample_steps(
            run.module.denoise,
            run.module.noise_schedule,
            sampler,
            run.image_shape,
            num_images=min(batch_size, num_samples - first),
            seed=seed,
            first=first,
            device=run.module.device,
        )
        for i, step in enumerate(steps):
            if first == 0 and i % every == 0:
                walk.append(Step(step.t.cpu(), *(tensor[:SHOWN].cpu() for tensor in step[1:])))
        images.append(run.value_range.decode(step.x_next).cpu())
        log.info("%d of %d images", first + len(images[-1]), num_samples)
    return torch.cat(images), walk


def sample(cfg: DictConfig) -> Samples:
    """Draw `num_samples` images and leave a grid, a trajectory, an animation and samples.npz.

    Raises UserError for a mistake in the configuration, before anything is drawn or written.
    """
    check_run_given(cfg)
    for name in ("num_samples", "batch_size", "trajectory_steps"):
        if cfg[name] < 1:
            raise UserError(f"{name}={cfg[name]}: expected at least 1")
    check_keys(cfg, SampleConfig)
    check_seed(cfg.seed)
    run = load_run(cfg.run, cfg.checkpoint)
    given = cast(dict[str, Any], OmegaConf.to_container(cfg.sampler, resolve=True))
    config = sampler_config(run.config, given)
    check_config({"sampler": config})
    sampler: Sampler = build(config)
    sampler.check(run.module.noise_schedule)
    move_to_device(run, cfg.accelerator)
    out = results_folder(cfg.out, run.dir / "samples", "samples.npz")
    began = time.perf_counter()
    images, walk = draw(
        run,
        sampler,
        num_samples=cfg.num_samples,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
    )
    seconds = time.perf_counter() - began
    schedule, value_range = run.module.noise_schedule, run.value_range
    chosen = np.linspace(0, len(walk) - 1, min(cfg.trajectory_steps, len(walk))).round()
    path = [walk[int(i)] for i in chosen]
    frames = [visible(step, schedule, value_range) for step in walk]
    final = images[:SHOWN].float() / 255
    figures.save_grid(final, out / "samples.png")
    figures.save_gif([*frames, final[: len(frames[0])]], out / "denoising.gif")
    figures.save_figure(trajectory_figure(path, schedule, value_range), out / "trajectory.png")
    save_arrays(out / "samples.npz", images=images)
    write_json(
        out / "samples.json",
        {
            "run": str(run.dir),
            "checkpoint": cfg.checkpoint,
            "sampler": config,
            "seed": cfg.seed,
            "num_samples": cfg.num_samples,
            "seconds": round(seconds, 3),
        },
    )
    return Samples(images, out)

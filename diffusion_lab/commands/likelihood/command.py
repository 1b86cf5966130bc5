"""scripts/likelihood.py: bits per dimension of real images under a run."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from diffusion_lab.commands.likelihood.bits_per_dim import (
    Images,
    bits_by_bound,
    bits_by_ode,
    has_exact_trace,
    level_width,
    summary,
)
from diffusion_lab.config.schema import LikelihoodConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.data.latents.decoder import LatentDecoder
from diffusion_lab.diffusion import VPSchedule
from diffusion_lab.diffusion.likelihood.ode import Progress, check_start
from diffusion_lab.diffusion.likelihood.variational_bound import check_bound
from diffusion_lab.errors import UserError, unknown_name
from diffusion_lab.runs.data import run_data
from diffusion_lab.runs.load import Run
from diffusion_lab.runs.sampling_options import check_run, open_run
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.sampling.progress import advance, planned_work, times
from diffusion_lab.system.device import choose_device
from diffusion_lab.system.git import git_commit
from diffusion_lab.system.output import results_folder, write_json

NAME = "likelihood.json"
METHODS = ("ode", "bound")
TITLES = {"ode": "probability-flow ODE", "bound": "variational bound"}
FINEST_TOLERANCE = 1e-7
"""Smallest tolerance that an ODE with a float32 network can meet."""

FINEST_RATIO = 0.002
"""Lowest noise level sigma / alpha for real numbers, unless the schedule's is higher."""


@dataclass
class Likelihood:
    """Result of likelihood.py: bits per dimension by each method."""

    record: dict[str, Any]
    """The content of likelihood.json."""
    out: Path
    """The folder with likelihood.json."""

    @property
    def lines(self) -> list[str]:
        """The lines of the table to print."""
        record = self.record
        labels = f", labels={record['labels']}" if record["labels"] else ""
        lines = [
            f"{record['num_images']} {record['data']} of {record['split']}, {record['weights']} "
            f"weights{labels}, seed {record['seed']}; bits/dim ± standard error over "
            f"{record['data']}"
        ]
        for method, result in record["methods"].items():
            lines.append(f"{TITLES[method]:20}  {_bits(result)}  {_DETAILS[method](result)}")
        if record["true_density"] is not None:
            lines.append(f"{'true density':20}  {_bits(record['true_density'])}")
        return lines


def _bits(result: dict[str, Any]) -> str:
    error = result["standard_error"]
    return f"{result['bits_per_dim']:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _ode_details(result: dict[str, Any]) -> str:
    calls, spread = result["num_calls"], result["probe_std"]
    probes = "" if spread is None else f", standard deviation over probes {spread:.4f}"
    return (
        f"NFE {calls['mean']:.0f} ({calls['min']} to {calls['max']}), tolerance "
        f"{result['tolerance']:g}, from sigma / alpha {result['start_ratio']:.4g}{probes}"
    )


def _bound_details(result: dict[str, Any]) -> str:
    parts = result["terms"]
    return (
        f"prior {parts['prior']:.4f}, steps {parts['steps']:.4f}, decoder {parts['decoder']:.4f}; "
        f"{result['num_timesteps']} of {result['of_timesteps']} steps per image, variance "
        f"{result['variance']}"
    )


_DETAILS: dict[str, Callable[[dict[str, Any]], str]] = {
    "ode": _ode_details,
    "bound": _bound_details,
}


def likelihood(cfg: DictConfig) -> Likelihood:
    """Compute bits per dimension of images of a split; write likelihood.json.

    Raises UserError for a mistake in the configuration, before anything is computed or written.
    """
    validate(cfg, LikelihoodConfig)
    check_run(cfg)
    if not FINEST_TOLERANCE <= cfg.tolerance < 1:
        raise UserError(
            f"tolerance={cfg.tolerance:g}: expected at least {FINEST_TOLERANCE:g} (float32 is no "
            "more precise) and below 1, for example tolerance=1e-3"
        )
    if cfg.method not in (*METHODS, "all"):
        raise UserError(unknown_name("method", cfg.method, [*METHODS, "all"]))
    if cfg.labels not in ("none", "own"):
        raise UserError(
            f"labels={cfg.labels}: expected labels=none, or labels=own for each image's own class"
        )
    run = open_run(cfg)
    if isinstance(run.value_range, LatentDecoder):
        raise UserError(
            f"run={cfg.run} was trained on latents ({run.value_range.vae.name}): a VAE gives no "
            "density of the pixels, only a bound with a further term; expected a run on pixels"
        )
    methods = _methods(cfg, run)
    images = _images(cfg, run)
    run.module.to(choose_device(cfg.accelerator))
    out = results_folder(cfg.out, run.dir / "likelihood")

    results = {}
    for method, work in methods.items():
        began = time.perf_counter()
        line = f"{TITLES[method]} of {times(len(images.pixels), 'image')} of {cfg.split}"
        with (
            planned_work(line, len(images.pixels)),
            _progress(TITLES[method], len(images.pixels)) as progress,
        ):
            results[method] = work(images, progress)
        results[method]["seconds"] = round(time.perf_counter() - began, 3)
    record = {
        "run": str(run.dir),
        "checkpoint": cfg.checkpoint,
        "weights": run.weights,
        "split": cfg.split,
        "num_images": cfg.num_images,
        "seed": cfg.seed,
        "labels": None if run.module.num_classes is None else cfg.labels,
        "data": "images" if run.value_range.is_pixels else "points",
        "methods": results,
        "true_density": None if images.true_density is None else summary(images.true_density),
        "images": images.indices,
        "device": str(run.module.device),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
    }
    write_json(out / NAME, record)
    return Likelihood(record, out)


Work = Callable[[Images, Progress], dict[str, Any]]
"""(images, callback for the number of finished images) -> entries of likelihood.json."""


def _methods(cfg: DictConfig, run: Run) -> dict[str, Work]:
    """Return a function for each method that method= chooses; UserError for unsuitable settings."""
    schedule = run.module.noise_schedule
    both = cfg.method == "all"
    pixels = run.value_range.is_pixels
    for name, reason in (
        ("draws", None if pixels else "real numbers are not dequantised"),
        ("probes", "the trace is exact for points" if has_exact_trace(run) else None),
    ):
        if reason is not None and cfg[name] != 1:
            raise UserError(f"{name}={cfg[name]} has no effect, as {reason}: leave out {name}=")
    methods: dict[str, Work] = {}
    if both or cfg.method == "ode":
        start = cfg.start_ratio
        if start is None:  # noise with the same variance as the dequantisation
            least = level_width(run.value_range) / math.sqrt(12) if pixels else FINEST_RATIO
            start = max(schedule.min_ratio, least)
        check_start(schedule, start)
        methods["ode"] = partial(
            bits_by_ode,
            run,
            start_ratio=start,
            tolerance=cfg.tolerance,
            probes=cfg.probes,
            draws=cfg.draws,
            seed=cfg.seed,
            batch_size=cfg.batch_size,
        )
    if cfg.method == "bound":
        run.value_range.check_pixels("method=bound", "type method=ode")
    if cfg.method == "bound" or (both and pixels and isinstance(schedule, VPSchedule)):
        check_bound(schedule, cfg.variance, cfg.num_timesteps)
        methods["bound"] = partial(
            bits_by_bound,
            run,
            variance=cfg.variance,
            num_timesteps=cfg.num_timesteps,
            seed=cfg.seed,
            batch_size=cfg.batch_size,
        )
    return methods


def _images(cfg: DictConfig, run: Run) -> Images:
    """Choose num_images= images of the split at random, and with labels=own also their labels."""
    if cfg.labels == "own" and run.module.num_classes is None:
        raise UserError(
            "labels=own needs a run with classes, but this run is unconditional: leave out labels="
        )
    if cfg.labels == "none":
        Conditioning.of(run.module, "none")
    data = run_data(run, **cfg.paths)
    pixels, labels = data.pixels(cfg.split), data.labels(cfg.split)
    if cfg.num_images > len(pixels):
        raise UserError(
            f"num_images={cfg.num_images}: expected at most {len(pixels)}, the number of "
            f"{cfg.split} images of this run"
        )
    # at random, because data sets may be sorted and the standard error needs independent images
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(cfg.seed))
    chosen = order[: cfg.num_images].sort().values
    own = labels[chosen] if cfg.labels == "own" else None
    bits = None
    if own is None and (known := data.image_set().distribution) is not None:
        points = pixels[chosen].flatten(1)
        bits = -known.log_density(points) / (points.shape[1] * math.log(2))
    return Images(chosen.tolist(), pixels[chosen], own, bits)


@contextmanager
def _progress(title: str, num_images: int) -> Iterator[Progress]:
    """Show a progress bar; yield a callback that takes the number of finished images."""
    with tqdm(
        total=num_images,
        desc=title,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
        disable=None,
        leave=False,
    ) as bar:
        shown = 0.0

        def show(done: float) -> None:
            nonlocal shown
            more = max(0.0, done - shown)
            shown += more
            bar.update(more)
            advance(more)

        yield show

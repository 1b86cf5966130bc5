"""How likely a run finds real images, in bits per dimension."""

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
    level_width,
)
from diffusion_lab.config.schema import LikelihoodConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.diffusion import VPSchedule
from diffusion_lab.diffusion.likelihood.ode import Progress, check_start
from diffusion_lab.diffusion.likelihood.variational_bound import check_bound
from diffusion_lab.errors import UserError
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
"""What float32 networks can be integrated to."""


@dataclass
class Likelihood:
    """What was found."""

    record: dict[str, Any]
    """The content of likelihood.json."""
    out: Path
    """The folder with it."""

    @property
    def lines(self) -> list[str]:
        """The table that is printed."""
        record = self.record
        labels = f", labels={record['labels']}" if record["labels"] else ""
        lines = [
            f"{record['num_images']} images of {record['split']}, {record['weights']} weights"
            f"{labels}, seed {record['seed']}; bits/dim, the standard error over images"
        ]
        for method, found in record["methods"].items():
            lines.append(f"{TITLES[method]:20}  {_figure(found)}  {_DETAILS[method](found)}")
        return lines


def _figure(found: dict[str, Any]) -> str:
    error = found["standard_error"]
    return f"{found['bits_per_dim']:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _ode_details(found: dict[str, Any]) -> str:
    calls, spread = found["num_calls"], found["probe_std"]
    probes = "" if spread is None else f", {spread:.4f} between probes of an image"
    return (
        f"{calls['mean']:.0f} calls ({calls['min']} to {calls['max']}), tolerance "
        f"{found['tolerance']:g}, from sigma / alpha {found['start_ratio']:.4g}{probes}"
    )


def _bound_details(found: dict[str, Any]) -> str:
    parts = found["terms"]
    return (
        f"prior {parts['prior']:.4f}, steps {parts['steps']:.4f}, decoder {parts['decoder']:.4f}; "
        f"{found['num_timesteps']} of {found['of_timesteps']} steps an image, {found['variance']}"
    )


_DETAILS: dict[str, Callable[[dict[str, Any]], str]] = {
    "ode": _ode_details,
    "bound": _bound_details,
}


def likelihood(cfg: DictConfig) -> Likelihood:
    """Bits per dimension of images of a split; leave likelihood.json.

    Raises UserError for a mistake in the configuration, before anything is done or written.
    """
    validate(cfg, LikelihoodConfig)
    check_run(cfg)
    if not FINEST_TOLERANCE <= cfg.tolerance < 1:
        raise UserError(
            f"tolerance={cfg.tolerance:g}: expected {FINEST_TOLERANCE:g} (float32 carries no more) "
            "to below 1, for example tolerance=1e-3"
        )
    if cfg.method not in (*METHODS, "all"):
        raise UserError(f"method={cfg.method} is unknown: choose from {[*METHODS, 'all']}")
    if cfg.labels not in ("none", "own"):
        raise UserError(f"labels={cfg.labels}: expected none, or own for each image's own class")
    run = open_run(cfg)
    methods = _methods(cfg, run)
    images = _images(cfg, run)
    run.module.to(choose_device(cfg.accelerator))
    out = results_folder(cfg.out, run.dir / "likelihood")

    found = {}
    for method, work in methods.items():
        began = time.perf_counter()
        line = f"{TITLES[method]} of {times(len(images.pixels), 'image')} of {cfg.split}"
        with (
            planned_work(line, len(images.pixels)),
            _progress(TITLES[method], len(images.pixels)) as progress,
        ):
            found[method] = work(images, progress)
        found[method]["seconds"] = round(time.perf_counter() - began, 3)
    record = {
        "run": str(run.dir),
        "checkpoint": cfg.checkpoint,
        "weights": run.weights,
        "split": cfg.split,
        "num_images": cfg.num_images,
        "seed": cfg.seed,
        "labels": None if run.module.num_classes is None else cfg.labels,
        "methods": found,
        "images": images.indices,
        "device": str(run.module.device),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
    }
    write_json(out / NAME, record)
    return Likelihood(record, out)


Work = Callable[[Images, Progress], dict[str, Any]]
"""(images, what is told how many are done) -> what is recorded."""


def _methods(cfg: DictConfig, run: Run) -> dict[str, Work]:
    """The methods asked for, with what they need of the settings checked."""
    schedule = run.module.noise_schedule
    both = cfg.method == "all"
    methods: dict[str, Work] = {}
    if both or cfg.method == "ode":
        start = cfg.start_ratio
        if start is None:  # the level whose noise has the variance of the dequantisation
            start = max(schedule.min_ratio, level_width(run.value_range) / math.sqrt(12))
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
    if cfg.method == "bound" or (both and isinstance(schedule, VPSchedule)):
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
    """The images chosen, and their labels where these are asked for."""
    if cfg.labels == "own" and run.module.num_classes is None:
        raise UserError("labels=own: this run has no classes, leave it out")
    if cfg.labels == "none":
        Conditioning.of(run.module, "none")
    data = run_data(run, cfg.paths.data_dir)
    pixels, labels = data.pixels(cfg.split), data.labels(cfg.split)
    if cfg.num_images > len(pixels):
        raise UserError(
            f"num_images={cfg.num_images}: the {cfg.split} images of this run are {len(pixels)}"
        )
    # at random, so that the standard error means something: sets are not always shuffled
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(cfg.seed))
    chosen = order[: cfg.num_images].sort().values
    return Images(chosen.tolist(), pixels[chosen], labels[chosen] if cfg.labels == "own" else None)


@contextmanager
def _progress(title: str, num_images: int) -> Iterator[Progress]:
    """A bar on terminals that is told how many images are done, and says how long the rest take."""
    with tqdm(
        total=num_images,
        desc=title,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
        disable=None,
        leave=False,
    ) as bar:
        seen = 0.0

        def show(done: float) -> None:
            nonlocal seen
            more = max(0.0, done - seen)
            seen += more
            bar.update(more)
            advance(more)

        yield show

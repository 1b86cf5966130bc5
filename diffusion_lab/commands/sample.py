"""Images from a trained run, and the pictures of how they came about."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.config.groups import sampler_word
from diffusion_lab.config.schema import SampleConfig
from diffusion_lab.config.validate import check_keys, check_seed
from diffusion_lab.diffusion import Step
from diffusion_lab.errors import UserError
from diffusion_lab.runs.diffusers_pipeline import load_pipeline
from diffusion_lab.runs.load import Run, load_run
from diffusion_lab.runs.sampling_options import chosen_sampler, read_guides
from diffusion_lab.sampling.conditioning import Guide
from diffusion_lab.sampling.description import planned
from diffusion_lab.sampling.draw import SHOWN
from diffusion_lab.sampling.figures import grid_columns, trajectory_figure, visible
from diffusion_lab.sampling.progress import planned_work, times
from diffusion_lab.system.device import choose_device
from diffusion_lab.system.output import results_folder, save_arrays, write_json
from diffusion_lab.system.precision import check_precision, chosen_precision

MAX_CELL = 8  # images of one class at one scale in guidance.png
MAX_ROWS = 16  # classes in it: clusters may be hundreds


@dataclass
class Samples:
    """What was drawn."""

    images: Tensor
    """uint8, (N, C, H, W), on the CPU; with several guidance scales one lot after the other."""
    labels: Tensor | None
    """The class, or cluster, of each, (N,); None for images without."""
    out: Path
    """The folder with the pictures and samples.npz."""
    lines: tuple[str, ...] = ()
    """What is printed."""


def sample(cfg: DictConfig) -> Samples:
    """Draw `num_samples` images a guidance scale; leave pictures of them and samples.npz.

    Raises UserError for a mistake in the configuration, before anything is drawn or written.
    """
    for name in ("num_samples", "batch_size", "trajectory_steps"):
        if cfg[name] < 1:
            raise UserError(f"{name}={cfg[name]}: expected at least 1")
    check_keys(cfg, SampleConfig)
    check_precision(cfg.precision)
    check_seed(cfg.seed)
    run = _open(cfg)
    config, sampler = chosen_sampler(run, cfg.sampler)
    guides = read_guides(cfg, run)
    if OmegaConf.is_list(cfg.labels) and len(cfg.labels) > cfg.num_samples:
        raise UserError(
            f"labels={cfg.labels} are {len(cfg.labels)} classes for num_samples={cfg.num_samples} "
            "images: raise num_samples="
        )
    device = choose_device(cfg.accelerator)
    run.module.to(device)
    if guides[0].weak is not None:
        guides[0].weak.to(device)
    out = results_folder(cfg.out, run.dir / "samples")

    began = time.perf_counter()
    several = f" at each of {len(guides)} guidance scales" if len(guides) > 1 else ""
    line = (
        f"drawing {times(cfg.num_samples, 'image')}{several} by {sampler_word(config)} in "
        f"{times(sampler.num_steps, 'step')}"
    )
    with planned_work(line, len(guides) * cfg.num_samples * sampler.num_steps):
        drawn = [
            run.sample_with_steps(
                cfg.num_samples,
                sampler,
                guide,
                seed=cfg.seed,
                batch_size=cfg.batch_size,
                precision=cfg.precision,
            )
            for guide in guides
        ]
    seconds = time.perf_counter() - began
    lots, walks = [images for images, _ in drawn], [walk for _, walk in drawn]
    labels = guides[0].labels_of(0, cfg.num_samples)
    _draw_pictures(run, lots[0], walks[0], guides[0], cfg.trajectory_steps, out)
    arrays: dict[str, Tensor] = {"images": torch.cat(lots)}
    if labels is not None:
        kind = "cluster" if run.has_clusters else "class"
        figures.save_figure(_guidance_figure(lots, guides, kind), out / "guidance.png")
        # evaluate.py holds labels against what a classifier sees
        arrays["clusters" if run.has_clusters else "labels"] = labels.repeat(len(guides))
    if len(guides) > 1:
        scales = torch.tensor([guide.guidance_scale for guide in guides])
        arrays["guidance_scale"] = scales.repeat_interleave(cfg.num_samples)
    save_arrays(out / "samples.npz", **arrays)
    write_json(
        out / "samples.json",
        {
            "run": str(run.dir),
            "checkpoint": cfg.checkpoint if cfg.run else None,
            "weights": run.weights,
            "sampler": config,
            "seed": cfg.seed,
            "num_samples": cfg.num_samples,
            "labels": list(guides[0].labels),
            "guidance_scale": [guide.guidance_scale for guide in guides],
            "guidance_interval": guides[0].interval,
            "autoguidance": cfg.autoguidance,
            "precision": chosen_precision(cfg.precision, device),
            "seconds": round(seconds, 3),
        },
    )
    labels = arrays.get("clusters", arrays.get("labels"))
    line = planned(config, sampler, guides, run.module, run.image_shape)
    return Samples(arrays["images"], labels, out, (line,))


def _open(cfg: DictConfig) -> Run:
    """The run or the diffusers pipeline that is to be drawn from."""
    if bool(cfg.run) == bool(cfg.pipeline):
        raise UserError(
            "give one of run=logs/runs/<name>, a run folder, and pipeline=<folder>, a diffusers "
            "pipeline"
        )
    if cfg.run:
        return load_run(cfg.run, cfg.checkpoint, cfg.weights, cfg.trust)
    for name, default in (("weights", None), ("autoguidance", None), ("checkpoint", "last")):
        if cfg[name] != default:
            raise UserError(f"{name}={cfg[name]} goes with run=, a pipeline folder has one network")
    return load_pipeline(cfg.pipeline)


def _draw_pictures(
    run: Run, images: Tensor, walk: list[Step], guide: Guide, trajectory_steps: int, out: Path
) -> None:
    schedule, value_range = run.module.noise_schedule, run.value_range
    chosen = np.linspace(0, len(walk) - 1, min(trajectory_steps, len(walk))).round()
    path = [walk[int(i)] for i in chosen]
    frames = [visible(step, schedule, value_range) for step in walk]
    final = images[:SHOWN].float() / 255
    nrow = grid_columns(len(guide.labels))
    figures.save_grid(final, out / "samples.png", nrow)
    figures.save_gif([*frames, final[: len(frames[0])]], out / "denoising.gif", nrow)
    figures.save_figure(trajectory_figure(path, schedule, value_range), out / "trajectory.png")


def _guidance_figure(lots: Sequence[Tensor], guides: Sequence[Guide], kind: str) -> Figure:
    """Rows the classes, columns the guidance scales; the same noise in every cell of a row.

    With one image of a class at one scale the classes stand side by side.
    """
    classes = guides[0].labels
    each = max(1, min(MAX_CELL, 16 // len(guides), len(lots[0]) // len(classes)))
    rows = {
        f"{kind} {label}": [lot[k :: len(classes)][:each].float() / 255 for lot in lots]
        for k, label in enumerate(classes[: min(len(lots[0]), MAX_ROWS)])
    }
    scales = [f"scale {guide.guidance_scale:g}" for guide in guides]
    if len(scales) == each == 1:
        return figures.labelled_table({scales[0]: [row[0] for row in rows.values()]}, list(rows))
    return figures.labelled_table(rows, scales)

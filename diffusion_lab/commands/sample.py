"""Images from a trained run, and the pictures of how they came about."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_lab.config.schema import SampleConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.errors import UserError
from diffusion_lab.runs.diffusers_pipeline import load_pipeline
from diffusion_lab.runs.load import Run
from diffusion_lab.runs.sampling_options import chosen_sampler, open_run, read_conditionings
from diffusion_lab.sampling.description import planned, work_line
from diffusion_lab.sampling.figures import grid_columns, write_figures, write_guidance_figure
from diffusion_lab.sampling.progress import planned_work
from diffusion_lab.system.device import choose_device
from diffusion_lab.system.output import results_folder, save_arrays, write_json
from diffusion_lab.system.precision import check_precision, chosen_precision


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
    validate(cfg, SampleConfig)
    check_precision(cfg.precision)
    run = _open(cfg)
    config, sampler = chosen_sampler(run, cfg.sampler)
    conditionings = read_conditionings(cfg, run)
    if OmegaConf.is_list(cfg.labels) and len(cfg.labels) > cfg.num_samples:
        raise UserError(
            f"labels={cfg.labels} are {len(cfg.labels)} classes for num_samples={cfg.num_samples} "
            "images: raise num_samples="
        )
    device = choose_device(cfg.accelerator)
    run.module.to(device)
    if conditionings[0].weak is not None:
        conditionings[0].weak.to(device)
    out = results_folder(cfg.out, run.dir / "samples")

    began = time.perf_counter()
    line = work_line(cfg.num_samples, config, sampler, len(conditionings))
    with planned_work(line, len(conditionings) * cfg.num_samples * sampler.num_steps):
        drawn = [
            run.sample_with_steps(
                cfg.num_samples,
                sampler,
                conditioning,
                seed=cfg.seed,
                batch_size=cfg.batch_size,
                precision=cfg.precision,
            )
            for conditioning in conditionings
        ]
    seconds = time.perf_counter() - began
    lots, walks = [images for images, _ in drawn], [walk for _, walk in drawn]
    labels, scales = (
        conditionings[0].labels_of(0, cfg.num_samples),
        [g.guidance_scale for g in conditionings],
    )
    schedule, value_range = run.module.noise_schedule, run.value_range
    nrow = grid_columns(len(conditionings[0].labels))
    write_figures(out, lots[0], walks[0], schedule, value_range, cfg.trajectory_steps, nrow)
    arrays: dict[str, Tensor] = {"images": torch.cat(lots)}
    if labels is not None:
        kind = "cluster" if run.has_clusters else "class"
        write_guidance_figure(out / "guidance.png", lots, conditionings[0].labels, scales, kind)
        # evaluate.py holds labels against what a classifier sees
        arrays["clusters" if run.has_clusters else "labels"] = labels.repeat(len(conditionings))
    if len(conditionings) > 1:
        arrays["guidance_scale"] = torch.tensor(scales).repeat_interleave(cfg.num_samples)
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
            "labels": list(conditionings[0].labels),
            "guidance_scale": scales,
            "guidance_interval": conditionings[0].interval,
            "autoguidance": cfg.autoguidance,
            "precision": chosen_precision(cfg.precision, device),
            "seconds": round(seconds, 3),
        },
    )
    labels = arrays.get("clusters", arrays.get("labels"))
    line = planned(config, sampler, conditionings, run.module, run.image_shape)
    return Samples(arrays["images"], labels, out, (line,))


def _open(cfg: DictConfig) -> Run:
    """The run or the diffusers pipeline that is to be drawn from."""
    if bool(cfg.run) == bool(cfg.pipeline):
        raise UserError(
            "give one of run=logs/runs/<name>, a run folder, and pipeline=<folder>, a diffusers "
            "pipeline"
        )
    if cfg.run:
        return open_run(cfg)
    for name, default in (("weights", None), ("autoguidance", None), ("checkpoint", "last")):
        if cfg[name] != default:
            raise UserError(f"{name}={cfg[name]} goes with run=, a pipeline folder has one network")
    return load_pipeline(cfg.pipeline)

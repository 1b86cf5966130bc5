"""scripts/sample.py: sample images from a trained run, with figures of the sampling."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_lab.config.schema import SampleConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.errors import UserError
from diffusion_lab.runs.sampling_options import (
    chosen_sampler,
    figures_of_run,
    open_model,
    read_conditionings,
)
from diffusion_lab.sampling.description import planned, work_line
from diffusion_lab.sampling.progress import planned_work
from diffusion_lab.system.device import choose_device
from diffusion_lab.system.output import results_folder, save_arrays, write_json
from diffusion_lab.system.precision import check_precision, chosen_precision


@dataclass
class Samples:
    """Result of sample.py: images, their labels and the output folder."""

    images: Tensor
    """(N, C, H, W), on the CPU; grouped by guidance scale if there are several.

    uint8, or float32 for data of an unbounded range.
    """
    labels: Tensor | None
    """Class or cluster of each image, (N,); None for unconditional samples."""
    out: Path
    """The folder with the figures and samples.npz."""
    lines: tuple[str, ...] = ()
    """The lines to print."""


def sample(cfg: DictConfig) -> Samples:
    """Sample `num_samples` images for each guidance scale; write figures and samples.npz.

    Raises UserError for a mistake in the configuration, before anything is sampled or written.
    """
    validate(cfg, SampleConfig)
    check_precision(cfg.precision)
    run = open_model(cfg)
    config, sampler = chosen_sampler(run, cfg.sampler)
    conditionings = read_conditionings(cfg, run)
    if OmegaConf.is_list(cfg.labels) and len(cfg.labels) > cfg.num_samples:
        raise UserError(
            f"labels={cfg.labels} names {len(cfg.labels)} classes but num_samples="
            f"{cfg.num_samples}: expected at least one image for each class; type for example "
            f"num_samples={len(cfg.labels)}, or name fewer classes in labels="
        )
    device = choose_device(cfg.accelerator)
    run.module.to(device)
    if conditionings[0].weak is not None:
        conditionings[0].weak.to(device)
    out = results_folder(cfg.out, run.dir / "samples")

    began = time.perf_counter()
    line = work_line(cfg.num_samples, config, sampler, len(conditionings))
    with planned_work(line, len(conditionings) * cfg.num_samples * sampler.num_steps):
        sampled = [
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
    by_scale, steps = [images for images, _ in sampled], [steps for _, steps in sampled]
    labels, scales = (
        conditionings[0].labels_of(0, cfg.num_samples),
        [g.guidance_scale for g in conditionings],
    )
    classes = conditionings[0].labels
    drawn = figures_of_run(run)
    drawn.write_sampling(out, by_scale[0], steps[0], run.module, cfg.trajectory_steps, len(classes))
    arrays: dict[str, Tensor] = {"images": torch.cat(by_scale)}
    if labels is not None:
        kind = "cluster" if run.has_clusters else "class"
        drawn.write_guidance(out / "guidance.png", by_scale, classes, scales, kind)
        # evaluate.py compares "labels" with the classes that a classifier predicts, never clusters
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
    line = planned(config, sampler, conditionings, run.module, run.value_shape)
    return Samples(arrays["images"], labels, out, (line,))

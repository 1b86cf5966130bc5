"""Reflow (rectified flow, arXiv 2209.03003): train on pairs of noise and a teacher's samples.

Paths from noise to image become straighter, so sampling needs fewer network evaluations (NFE).
"""

import logging
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_lab.config.instantiate import build
from diffusion_lab.config.trusted import check_targets
from diffusion_lab.data.sources import BY_NAME, OPTIONS
from diffusion_lab.diffusion import Sampler
from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.diffusion.samplers.base import first_noise, image_generators
from diffusion_lab.errors import UserError, reason_of
from diffusion_lab.modules.contracts import check_range
from diffusion_lab.runs.load import Run, load_run
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.system.atomic import replacing
from diffusion_lab.system.precision import FULL, NARROW

log = logging.getLogger(__name__)

_PARTS = ("network", "noise_schedule", "prediction")
_PLACES = ("path", "cache_dir")
"""Options of data= that may be typed anew, because files may lie elsewhere since."""
_DATA = (
    "name",
    "channels",
    "image_size",
    "value_range",
    "clusters",
    *sorted({option for own in OPTIONS.values() for option in own} - {*_PLACES}),
)
_BATCH = 250


@dataclass(frozen=True)
class Pairs:
    """Pairs of noise and the images that the teacher samples from it."""

    images: Tensor
    """(N, C, H, W): uint8, or float32 of an unbounded range."""
    labels: Tensor
    """Classes of the images, int64 (N,); zeros for an unconditional teacher."""
    noise: Tensor
    """Noise of unit standard deviation, float32 (N, C, H, W)."""


def read_teacher(cfg: DictConfig, trust: Sequence[str] = ()) -> Run:
    """Load the run of teacher.run= and check that it can be a teacher.

    The run folder may be untrusted, so its configuration may name only classes of this project and
    of the packages in `trust`. Raises UserError for a stochastic sampler, for a prediction that
    does not determine the image at pure noise, and for guidance that the run does not support.
    """
    teacher = cfg.teacher
    if not teacher.run:
        raise UserError(
            "teacher.run= is missing: type teacher.run=logs/runs/<run>, the trained run whose "
            "sampling is to become faster"
        )
    try:
        run = load_run(teacher.run, trust=trust)
    except UserError as error:
        text = str(error)
        raise UserError(f"teacher.{text}" if text.startswith("run=") else text) from error
    if run.module.prediction.needs_signal:
        raise UserError(
            f"teacher.run={teacher.run} predicts the {run.module.prediction.name}, which does not "
            "determine the image at pure noise: expected a run with prediction=sample, flow, "
            "v_prediction or edm"
        )
    try:
        sampler = _sampler(run, cfg)
        if sampler.stochastic:
            raise UserError(
                f"{sampler.name} is stochastic: expected a deterministic sampler, for example "
                "sampler@teacher.sampler=unipc"
            )
        _conditioning(run, cfg)
    except UserError as error:
        scale = teacher.guidance_scale
        guided = "" if scale is None else f" with teacher.guidance_scale={scale:g}"
        raise UserError(f"teacher.run={teacher.run}{guided}: {error}") from error
    return run


def use_parts_of(run: Run, cfg: DictConfig) -> dict[str, Any]:
    """Put the teacher's network, noise schedule, prediction and data into `cfg`.

    Returns `cfg` resolved. Raises UserError for an override that conflicts with the teacher.
    """
    theirs = OmegaConf.create(run.config)
    if cfg.get("latents") or cfg.data.get("latents") or run.config["data"].get("latents"):
        raise UserError(
            f"teacher.run={cfg.teacher.run} with latents=: expected a teacher and a training on "
            "pixels, because the teacher's pairs are saved as images"
        )
    clashes = [word for word in cfg.command.overrides if _clashes(word, cfg, theirs)]
    if clashes:
        raise UserError(
            f"teacher.run={cfg.teacher.run} uses the teacher's network, noise schedule, "
            "prediction, classes and data, which conflict with other options: leave out "
            f"{' '.join(clashes)}"
        )
    if cfg.pairing.get("_target_") != "diffusion_lab.diffusion.independent":
        raise UserError("teacher.run= provides the pairs of noise and image: leave out pairing=")
    if cfg.get("augment") is not None or cfg.data.get("flip"):
        option = "data.flip=true" if cfg.data.get("flip") else "augment="
        raise UserError(
            f"teacher.run= provides pairs of noise and image, and {option} would change only the "
            f"images of these pairs: leave out {option}"
        )
    cfg.command.choices = dict(cfg.command.choices) | {
        group: run.config["command"]["choices"].get(group) for group in (*_PARTS, "data")
    }
    check_targets([run.config[part] for part in (*_PARTS, "data")], run.trust)
    take_over(cfg, run.config)
    cfg.teacher.run = str(run.dir.absolute())
    cfg.teacher.guidance_scale = _conditioning(run, cfg).guidance_scale
    scale = cfg.get("guidance_scale", 1.0)
    if cfg.teacher.guidance_scale != 1 and scale != 1:
        log.warning(
            "the teacher's images already include guidance (teacher.guidance_scale=%g): "
            "guidance_scale=%g applies guidance a second time when this run samples; use "
            "guidance_scale=1 to avoid it",
            cfg.teacher.guidance_scale,
            scale,
        )
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def take_over(cfg: DictConfig, config: Mapping[str, Any]) -> None:
    """Copy network, noise schedule, prediction, classes and data from `config` into `cfg`."""
    for part in _PARTS:
        cfg[part] = config[part]
    for key in _data_options(config["data"]):
        if key in cfg.data:  # a resumed run may be older than the option
            cfg.data[key] = config["data"].get(key)
    for key in _PLACES:
        if cfg.data.get(key) is None and config["data"].get(key) is not None:
            cfg.data[key] = config["data"][key]
    cfg.model.num_classes = config["model"].get("num_classes")


def draw_pairs(run: Run, cfg: DictConfig, file: Path, device: torch.device) -> None:
    """Sample teacher.num_pairs= images with the teacher `run`, and write them to `file`.

    The noise comes from the seed of `cfg`. The file holds images and labels only, because
    `read_pairs` samples the same noise again.
    """
    began = time.perf_counter()
    count = cfg.teacher.num_pairs
    log.info("sampling %d training images with %s (teacher.num_pairs=)", count, run.dir)
    run.module.to(device)
    images = run.sample(
        count,
        seed=cfg.seed,
        sampler=_sampler(run, cfg),
        conditioning=_conditioning(run, cfg),
        batch_size=_BATCH,
        precision=NARROW if cfg.trainer.precision == NARROW else FULL,
    )
    labels = _conditioning(run, cfg).labels_of(0, count)
    labels = torch.zeros(count, dtype=torch.int64) if labels is None else labels
    with replacing(file) as part, part.open("wb") as stream:
        np.savez(stream, images=images.numpy(), labels=labels.numpy())
    log.info("sampled the training images in %.0f s", time.perf_counter() - began)


def pairs_work(run: Run, cfg: DictConfig) -> int:
    """Return the work of `draw_pairs`: number of images times sampler steps."""
    return int(cfg.teacher.num_pairs) * _sampler(run, cfg).num_steps


def read_pairs(file: Path, seed: int, noise_schedule: NoiseSchedule) -> Pairs:
    """Read the images and labels that `draw_pairs` wrote; sample their noise again from the seed.

    Raises UserError for a damaged file.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            images = torch.from_numpy(arrays["images"])
            labels = torch.from_numpy(arrays["labels"])
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{file} is damaged ({reason_of(error)}): remove it to sample the pairs again"
        ) from error
    generators = image_generators(seed, 0, len(images))
    return Pairs(images, labels, first_noise(noise_schedule, images.shape[1:], generators))


def _clashes(word: str, cfg: DictConfig, theirs: DictConfig) -> bool:
    """Return True if an override changes an option that the teacher determines.

    These options are network, noise schedule, prediction, classes and data. `word` is the override,
    `theirs` the teacher's configuration.
    """
    key = word.lstrip("+~").partition("=")[0]
    if key in (*_PARTS, "data"):
        return bool(cfg.command.choices[key] != theirs.command.choices.get(key))
    group, _, setting = key.partition(".")
    of_data = group == "data" and setting in _data_options(theirs.data)
    if group in _PARTS or key == "model.num_classes" or of_data:
        return bool(OmegaConf.select(cfg, key) != OmegaConf.select(theirs, key))
    return False


def _data_options(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options that a student takes over from its teacher's data."""
    # the source of published images differs between machines: folder, download or bundled digits
    return (*_DATA, "source") if data.get("source") in BY_NAME else _DATA


def _sampler(run: Run, cfg: DictConfig) -> Sampler:
    """Build the sampler of teacher.sampler, or the teacher's own."""
    if cfg.teacher.sampler is None:
        return run.sampler()
    sampler: Sampler = build(cfg.teacher.sampler)
    sampler.check(run.module.noise_schedule)
    check_range(sampler, run.value_range)
    return sampler


def _conditioning(run: Run, cfg: DictConfig) -> Conditioning:
    return run.conditioning(guidance_scale=cfg.teacher.guidance_scale)

"""A trained run as a pipeline folder, with a model card, an ONNX file and a place on the Hub."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.schema import ExportConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.errors import UserError
from diffusion_lab.export import plan_export
from diffusion_lab.export.card import model_card, sampler_words
from diffusion_lab.export.onnx import check_onnx, export_onnx
from diffusion_lab.export.publish import Hub
from diffusion_lab.runs.sampling_options import chosen_sampler, open_run
from diffusion_lab.system.atomic import new_folder


@dataclass
class Exported:
    """What an export left."""

    out: Path
    """The pipeline folder."""
    pipeline: str
    """The name of the pipeline's class."""
    sampler: str
    """What to type to draw the same by scripts/sample.py."""
    onnx_difference: float | None
    """Of denoiser.onnx from torch, at most."""
    url: str | None
    """Of the repository it was pushed to."""

    @property
    def lines(self) -> list[str]:
        """What is printed."""
        pushed = [] if self.url is None else [self.url]
        return [f"{self.pipeline}, draws as {self.sampler}", *pushed]


def export(cfg: DictConfig) -> Exported:
    """Write a run's pipeline folder, whole or not at all, and push it if asked to.

    Raises UserError for a mistake in the configuration before anything is written.
    """
    for name in ("run", "out"):
        if OmegaConf.is_missing(cfg, name) or not cfg[name]:
            raise UserError(f"{name}= is missing: type run=logs/runs/<name> out=<new folder>")
    validate(cfg, ExportConfig)
    if cfg.onnx:
        check_onnx()
    hub = None if cfg.push is None else Hub(cfg.push, cfg.endpoint)
    run = open_run(cfg)
    _, sampler = chosen_sampler(run, cfg.sampler)
    planned = plan_export(run.module, sampler, run.value_range, run.image_shape, run.conditioning())
    if "_target_" in cfg.sampler and not planned.exact:
        raise UserError(
            f"{sampler.name} with {sampler.num_steps} steps has no pipeline for this run: "
            "leave it out, or take sampler=ddim or ddpm on a path from betas, else blend or heun"
        )

    out = Path(cfg.out).expanduser().absolute()
    difference = None
    with new_folder(out) as part:
        if hub is not None:
            hub.create(cfg.private)
        planned.write(part)
        if cfg.onnx:
            difference = export_onnx(run.module, run.image_shape, part / "denoiser.onnx")
        card = model_card(
            planned,
            run.config,
            _record(run.dir),
            where=cfg.push or cfg.out,
            license=cfg.license,
            checkpoint=cfg.checkpoint,
            weights=run.weights,
            onnx_difference=difference,
        )
        (part / "README.md").write_text(card)
    try:
        url = None if hub is None else hub.upload(out)
    except UserError as error:
        raise UserError(f"{error}; the folder is whole: hf upload {cfg.push} {out}") from error
    return Exported(out, type(planned.pipeline).__name__, sampler_words(planned), difference, url)


def _record(run_dir: Path) -> dict[str, Any]:
    """The run's metrics.json; empty where there is none to be read."""
    try:
        record = json.loads((run_dir / "metrics.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}

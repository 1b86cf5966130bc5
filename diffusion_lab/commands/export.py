"""scripts/export.py: write a run as a diffusers pipeline folder, and push it to the Hub."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.schema import ExportConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.errors import UserError
from diffusion_lab.export import plan_export
from diffusion_lab.export.card import model_card, sampler_words
from diffusion_lab.export.onnx import check_onnx, export_onnx
from diffusion_lab.export.publish import Hub
from diffusion_lab.runs.sampling_options import chosen_sampler, open_run
from diffusion_lab.runs.state import read_record
from diffusion_lab.system.atomic import new_folder


@dataclass
class Exported:
    """Result of export.py: the pipeline folder, and the address of its upload."""

    out: Path
    """The pipeline folder."""
    pipeline: str
    """Class name of the pipeline."""
    sampler: str
    """Options of scripts/sample.py that give the same images as the pipeline."""
    onnx_difference: float | None
    """Largest absolute difference between denoiser.onnx and torch; None without onnx=true."""
    url: str | None
    """URL of the Hub repository; None if nothing was pushed."""

    @property
    def lines(self) -> list[str]:
        """Lines to print: class of the pipeline, options for equal samples, upload address."""
        pushed = [] if self.url is None else [self.url]
        return [f"{self.pipeline}, samples as {self.sampler}", *pushed]


def export(cfg: DictConfig) -> Exported:
    """Write a run as a diffusers pipeline folder, and upload the folder with push=.

    The folder is written completely or not at all. Raises UserError for a mistake in the
    configuration, before anything is written.
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
    planned = plan_export(run.module, sampler, run.value_range, run.value_shape, run.conditioning())
    if "_target_" in cfg.sampler and not planned.exact:
        raise UserError(
            f"sampler={sampler.name} with {sampler.num_steps} steps has no diffusers pipeline for "
            "this run: leave out sampler=, or type sampler=ddim or sampler=ddpm for a VP schedule, "
            "sampler=blend or sampler=heun for any other schedule"
        )

    out = Path(cfg.out).expanduser().absolute()
    difference = None
    with new_folder(out) as part:
        if hub is not None:
            hub.create(cfg.private)
        planned.write(part)
        if cfg.onnx:
            difference = export_onnx(run.module, run.value_shape, part / "denoiser.onnx")
        card = model_card(
            planned,
            run.config,
            read_record(run.dir),
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
        raise UserError(
            f"{error}; the pipeline folder is complete: to upload it later, type hf upload "
            f"{cfg.push} {out}"
        ) from error
    return Exported(out, type(planned.pipeline).__name__, sampler_words(planned), difference, url)

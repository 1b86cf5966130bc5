"""Figures of a finished run, saved as PNG and sent to the loggers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.callbacks.monitoring.loss_history import LossHistory
from diffusion_lab.callbacks.samples.evaluation_mode import conditioning_of, evaluating, parts
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion import (
    Sampler,
    Step,
    VPSchedule,
    sample_steps,
)
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.sampling.choose_figures import figures_of_data
from diffusion_lab.sampling.figures import (
    ddpm_noising_figure,
    grid_columns,
    noise_schedule_figure,
)
from diffusion_lab.system.lightning import callbacks_of


def figures_folder(trainer: L.Trainer) -> Path:
    """Return the run's folder figures/, and create it if necessary.

    Raises FileNotFoundError if the run folder was removed.
    """
    folder = Path(trainer.default_root_dir) / "figures"
    folder.mkdir(exist_ok=True)
    return folder


def log_picture(trainer: L.Trainer, name: str, path: Path) -> None:
    """Send a PNG to every logger that shows images, at the step of the newest metrics."""
    step = trainer.global_step - 1
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            image = np.asarray(Image.open(path).convert("RGB"))
            logger.experiment.add_image(name, image, step, dataformats="HWC")
            logger.save()  # before the next checkpoint, from which a killed run resumes
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(path), "figures")


class Figures(L.Callback):
    """Make figures at the end of training, save them in figures/ and send them to the loggers.

    The figures show data, noised images, predictions, the noise schedule, a sampling trajectory,
    samples and losses. With `tutorial` two of the tutorial's figures are added: the loss next to
    samples, and DDPM's noise schedule with noised images.
    """

    def __init__(
        self,
        sampler: Sampler,
        num_samples: int = 64,
        trajectory_steps: int = 5,
        tutorial: bool = False,
        guidance_scale: float = 1.0,
        guidance_interval: Sequence[float] | None = None,
    ) -> None:
        for name, value in (("num_samples", num_samples), ("trajectory_steps", trajectory_steps)):
            if value < 1:
                raise UserError(f"callbacks.figures.{name}={value}: expected at least 1")
        self.sampler = sampler
        self.num_samples = num_samples
        self.trajectory_steps = trajectory_steps
        self.tutorial = tutorial
        self.guidance_scale, self.guidance_interval = guidance_scale, guidance_interval

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Raise UserError for a sampler or guidance that does not fit the module."""
        module, data = parts(trainer, pl_module)
        if self.tutorial:
            data.value_range.check_pixels("callbacks.figures.tutorial=true", "leave it out")
        self._conditioning = conditioning_of(
            module, self.sampler, self.guidance_scale, self.guidance_interval
        )

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make, save and log every figure."""
        module, data = parts(trainer, pl_module)
        with evaluating(trainer, module):
            for name, figure in self._figures(trainer, module, data):
                path = figures_folder(trainer) / f"{name}.png"
                if isinstance(figure, Figure):
                    figures.save_figure(figure, path)
                else:
                    figures.save_grid(figure, path, grid_columns(module.num_classes))
                log_picture(trainer, f"figures/{name}", path)

    def _figures(
        self, trainer: L.Trainer, module: DiffusionModule, data: ImageDataModule
    ) -> Iterator[tuple[str, Figure | Tensor]]:
        schedule = module.noise_schedule
        yield "noise_schedule", noise_schedule_figure(schedule)

        def solve(sampler: Sampler, num_images: int) -> list[Step]:
            steps = sample_steps(
                self._conditioning.denoiser(module, 0, num_images),
                schedule,
                sampler,
                data.value_shape,
                num_images=num_images,
                seed=0,
                device=module.device,
            )
            return [Step(*(tensor.cpu() for tensor in step)) for step in steps]

        samples = torch.empty(0)
        drawn = figures_of_data(data)
        for name, figure in drawn.of_training(
            module, data, solve, self.sampler, self.num_samples, self.trajectory_steps
        ):
            if name == "samples" and isinstance(figure, Tensor):
                samples = figure
            yield name, figure
        ylim = (0.0, 0.1) if self.tutorial else None
        for history in callbacks_of(trainer, LossHistory):
            losses, val = history.steps, history.validations
            yield "loss_curve", figures.loss_curve(losses, ylim=ylim, val=val)
            if self.tutorial:
                title = type(module.network).__name__
                yield "loss_and_samples", figures.loss_and_grid(losses, samples, title)
        if self.tutorial:
            yield "ddpm_schedule", noise_schedule_figure(VPSchedule())
            yield "ddpm_noising", ddpm_noising_figure(data.value_range.decode(data.examples(8)[0]))

"""Sample grids of images during training, in at most a given fraction of the training time."""

import logging
from collections.abc import Sequence
from time import monotonic
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from diffusion_lab.callbacks.samples.evaluation_mode import conditioning_of, evaluating, parts
from diffusion_lab.callbacks.samples.figures import figures_folder, log_picture
from diffusion_lab.callbacks.samples.time_budget import Budget
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion import Sampler, Step, sample_steps
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.sampling.choose_figures import figures_of_data
from diffusion_lab.sampling.data_figures import DataFigures
from diffusion_lab.sampling.progress import duration

log = logging.getLogger(__name__)

_NEGLIGIBLE = 1.0
"""Seconds; a grid that takes no longer is made regardless of the time budget."""


class SampleGrid(L.Callback):
    """Sample a grid of images every `every_n_epochs` epochs, always from the same noise.

    Points are plotted instead. `share` is the maximum fraction of the training's wall time spent on
    grids, above 0 and at most 1; None for no limit. The time of a grid is estimated from its first
    two sampler steps. A grid is left out if it would take more than one second and exceed the
    limit.
    """

    def __init__(
        self,
        sampler: Sampler,
        num_samples: int = 64,
        every_n_epochs: int = 1,
        seed: int = 0,
        share: float | None = 0.1,
        guidance_scale: float = 1.0,
        guidance_interval: Sequence[float] | None = None,
    ) -> None:
        for name, value in (("num_samples", num_samples), ("every_n_epochs", every_n_epochs)):
            if value < 1:
                raise UserError(f"callbacks.samples.{name}={value}: expected at least 1")
        self.sampler = sampler
        self.num_samples = num_samples
        self.every_n_epochs = every_n_epochs
        self.seed = seed
        self.guidance_scale, self.guidance_interval = guidance_scale, guidance_interval
        self.budget = Budget(share, "callbacks.samples.share")
        self._drawn: DataFigures | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Count the network evaluations per sampler step.

        Raises UserError if the sampler or the guidance does not fit the module.
        """
        module, data = parts(trainer, pl_module)
        self._conditioning = conditioning_of(
            module, self.sampler, self.guidance_scale, self.guidance_interval
        )
        self._calls = self._conditioning.network_calls(
            self.sampler, module.noise_schedule, data.value_shape
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the time budget."""
        self.budget.start()

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint, different for each grid of a run."""
        settings = {
            "sampler": self.sampler.name,
            "num_samples": self.num_samples,
            "seed": self.seed,
        }
        return f"{type(self).__qualname__}{settings!r}"

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Every `every_n_epochs` epochs, sample, save and log a grid if the time budget allows."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        module, data = parts(trainer, pl_module)
        with self.budget.spending():
            with evaluating(trainer, module):
                last = self._sample(module, data, trainer.current_epoch)
            if last is None:
                return
            path = figures_folder(trainer) / f"samples_epoch_{trainer.current_epoch:03d}.png"
            samples = data.value_range.decode(last.x_next).cpu()
            self._drawn = self._drawn or figures_of_data(data)
            self._drawn.write_samples(samples, path, module.num_classes)
            log_picture(trainer, "samples", path)

    def _sample(self, module: DiffusionModule, data: ImageDataModule, epoch: int) -> Step | None:
        """Return the last step of the sampler; None if sampling would exceed the time budget."""
        steps = sample_steps(
            self._conditioning.denoiser(module, 0, self.num_samples),
            module.noise_schedule,
            self.sampler,
            data.value_shape,
            num_images=self.num_samples,
            seed=self.seed,
            device=module.device,
        )
        for number, step in enumerate(steps, 1):
            if number <= 2:
                step.x_next[0].cpu()  # waits for the device
            if number == 1:  # not timed: it includes set-up
                began = monotonic()
            if number == 2:
                per_call = (monotonic() - began) / max(self._calls[1], 1)
                expected = per_call * sum(self._calls)
                if expected > _NEGLIGIBLE and not self.budget.allows(expected):
                    log.info(
                        "epoch %d: samples left out, %s more would be %.0f%% of the run's time "
                        "(callbacks.samples.share=%g)",
                        epoch,
                        duration(expected),
                        100 * self.budget.taken(expected),
                        self.budget.share,
                    )
                    return None
        return step

    def state_dict(self) -> dict[str, Any]:
        """Return the time budget as plain numbers, for the checkpoint."""
        return {"budget": self.budget.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the time budget."""
        self.budget.load_state_dict(state_dict["budget"])

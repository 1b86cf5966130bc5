"""Estimate FID during training, in at most a given fraction of the training time."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from diffusion_lab.callbacks.checkpoints.last import is_last_epoch
from diffusion_lab.callbacks.samples.cost_estimate import Forecast
from diffusion_lab.callbacks.samples.evaluation_mode import conditioning_of, evaluating, parts
from diffusion_lab.callbacks.samples.time_budget import Budget
from diffusion_lab.diffusion import Sampler, sample_steps
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import Features
from diffusion_lab.evaluation.features.find_reference import reference_for
from diffusion_lab.evaluation.features.load import extractor_for, load_extractor
from diffusion_lab.evaluation.metrics import Moments, frechet_distance
from diffusion_lab.sampling.progress import duration
from diffusion_lab.system.lightning import my_batches, run_on_all_ranks

log = logging.getLogger(__name__)

FID = "val/fid"
_Batches = Iterator[tuple[int, Features]]
_log_info = rank_zero_only(log.info)


class FIDEstimate(L.Callback):
    """Log `val/fid`: FID between samples from the averaged weights and the test images.

    An estimate is postponed to the end of a later epoch if it would raise the time spent on FID
    above `share` of the training time; the final FID is always computed. Image k starts from the
    same noise in every estimate and in scripts/evaluate.py. Processes divide the batches among
    themselves, which does not change the value. `estimates` holds (optimizer step, FID) pairs.

    Args:
        sampler: the sampler of the images.
        num_samples: number of images. More images give a lower FID, so compare FIDs only at equal
            numbers.
        every_n_epochs: epochs between estimates.
        share: maximum fraction of the training's wall time, above 0 and at most 1; None for no
            limit.
        extractor: name or path of the feature extractor, as for `load_extractor`; None for the
            extractor shipped for the data set.
        batch_size: images sampled at once.
        seed: random seed of the images.
        guidance_scale: classifier-free guidance; 1 for none.
        guidance_interval: noise levels sigma / alpha with guidance; None for all.

    Raises:
        UserError: a number is out of range; or, before the first step, no extractor fits the data.

    """

    def __init__(
        self,
        sampler: Sampler,
        num_samples: int = 2000,
        every_n_epochs: int = 1,
        share: float | None = 0.1,
        extractor: str | None = None,
        batch_size: int = 250,
        seed: int = 0,
        guidance_scale: float = 1.0,
        guidance_interval: Sequence[float] | None = None,
    ) -> None:
        for name, value, least in (
            ("num_samples", num_samples, 2),
            ("every_n_epochs", every_n_epochs, 1),
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise UserError(f"callbacks.fid.{name}={value}: expected at least {least}")
        self.sampler, self.extractor_name = sampler, extractor
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.guidance_scale, self.guidance_interval = guidance_scale, guidance_interval
        self.every_n_epochs, self.budget = every_n_epochs, Budget(share, "callbacks.fid.share")
        self.estimates: list[tuple[int, float]] = []
        self._expected = 0.0  # seconds that the next estimate will take
        self._due = self._has_put_off = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Load the feature extractor and the feature statistics of the test images.

        Raises UserError if these do not fit the data, or if the sampler or the guidance does not
        fit the module.
        """
        module, data = parts(trainer, pl_module)
        data.value_range.check_pixels("FID", "leave out callbacks=fid")
        self._conditioning = conditioning_of(
            module, self.sampler, self.guidance_scale, self.guidance_interval
        )
        name = self.extractor_name or extractor_for(data.dataset, "callbacks.fid.extractor")
        with torch.random.fork_rng(devices=[]):  # building the network samples initial weights
            self.extractor = load_extractor(name, trainer.strategy.root_device)
        self.extractor.fit(torch.zeros(1, *data.image_shape, dtype=torch.uint8))
        num_features = self.extractor.num_features
        if self.num_samples <= num_features:
            raise UserError(
                f"callbacks.fid.num_samples={self.num_samples}: expected more samples than the "
                f"{num_features} features of {self.extractor.name}; type for example "
                f"callbacks.fid.num_samples={max(2000, 2 * num_features)}"
            )
        self.real = reference_for(self.extractor, data.dataset, lambda: data).test_moments

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the time budget, and log the expected time of an FID estimate.

        The expected time is computed from a few timed network evaluations.
        """
        self.budget.start()
        with self.budget.spending():
            (calls, self._expected), *_ = run_on_all_ranks(
                trainer, lambda: self._cost(trainer, pl_module)
            )
        every = "epoch" if self.every_n_epochs == 1 else f"{self.every_n_epochs} epochs"
        share = self.budget.share
        limit = (
            "" if share is None else f"; all but the final FID within {share:.0%} of the run's time"
        )
        _log_info(
            f"FID of {self.num_samples:,} samples: about {duration(self._expected)} every {every} "
            f"and at the end ({calls} network evaluations per image){limit}"
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Estimate FID if it is due and within the time budget, and always in the last epoch.

        Checkpoint callbacks run later and can use the value.
        """
        self._due |= (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if is_last_epoch(trainer) or (self._due and self._has_time(trainer)):
            pl_module.log(FID, self._estimate(trainer, pl_module), sync_dist=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute the final FID if the current weights have none yet, as after early stopping."""
        if self.is_new(trainer):
            return
        value = self._estimate(trainer, pl_module)
        trainer.callback_metrics[FID] = torch.tensor(value)
        for logger in trainer.loggers:
            logger.log_metrics({FID: value}, trainer.global_step - 1)

    def is_new(self, trainer: L.Trainer) -> bool:
        """Return True if the last FID estimate was made with the current weights."""
        return bool(self.estimates) and self.estimates[-1][0] == trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Return estimates and time budget as plain numbers, for the checkpoint."""
        state = {"estimates": self.estimates, "due": self._due, "has_put_off": self._has_put_off}
        return state | {"budget": self.budget.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore estimates and time budget."""
        self.estimates = [(step, value) for step, value in state_dict["estimates"]]
        self._due, self._has_put_off = state_dict["due"], state_dict["has_put_off"]
        self.budget.load_state_dict(state_dict["budget"])

    def _has_time(self, trainer: L.Trainer) -> bool:
        """Return True if one more estimate fits into the time budget of the first process."""
        fits: bool = trainer.strategy.broadcast(self.budget.allows(self._expected))
        if not fits and not self._has_put_off:
            self._has_put_off = True
            _log_info(
                f"epoch {trainer.current_epoch}: FID postponed, {duration(self._expected)} more "
                f"would be {self.budget.taken(self._expected):.0%} of the run's time; it is "
                f"computed when callbacks.fid.share={self.budget.share} allows it, and at the end"
            )
        return fits

    def _estimate(self, trainer: L.Trainer, pl_module: L.LightningModule) -> float:
        before = self.budget.spent
        with self.budget.spending():
            parts = run_on_all_ranks(trainer, lambda: dict(self._features(trainer, pl_module)))
            batches = {first: features for part in parts for first, features in part.items()}

            def compare() -> float:
                if not trainer.is_global_zero:  # the last bits may differ between machines
                    return 0.0
                values = Features.concatenate([batches[first] for first in sorted(batches)]).values
                return frechet_distance(Moments.of(values), self.real)

            value, *_ = run_on_all_ranks(trainer, compare)
        self._expected = self.budget.spent - before
        self.estimates.append((trainer.global_step, value))
        self._due = False
        above = "" if self.budget.allows(0) else f", above callbacks.fid.share={self.budget.share}"
        _log_info(
            f"step {trainer.global_step:,}: FID of {self.num_samples:,} samples {value:.4g}, in "
            f"{duration(self._expected)}; {self.budget.taken():.0%} of the run's time so far{above}"
        )
        return value

    def _features(
        self, trainer: L.Trainer, module: L.LightningModule
    ) -> Iterator[tuple[int, Features]]:
        """Sample this process's batches; yield (index of the first image, features) of each."""
        module, data = parts(trainer, module)
        batches = my_batches(trainer, self.num_samples, self.batch_size)
        bar = tqdm(batches, "FID", leave=False, disable=None if trainer.is_global_zero else True)
        with evaluating(trainer, module):
            for first, count in bar:
                *_, last = sample_steps(
                    self._conditioning.denoiser(module, first, count),
                    module.noise_schedule,
                    self.sampler,
                    data.value_shape,
                    num_images=count,
                    seed=self.seed,
                    first=first,
                    device=module.device,
                )
                images = self.extractor.unpad(data.value_range.decode(last.x_next).cpu())
                yield first, self.extractor(images)

    def _cost(self, trainer: L.Trainer, pl_module: L.LightningModule) -> tuple[int, float]:
        """Return (NFE per image, seconds per estimate)."""
        module, data = parts(trainer, pl_module)
        sizes = [n for _, n in my_batches(trainer, self.num_samples, self.batch_size)]
        with evaluating(trainer, module):
            forecast = Forecast(module, data, self.sampler, self._conditioning)
            each = forecast.seconds_per_image(self.extractor, max(sizes, default=1))
        return forecast.num_calls, sum(sizes) * each

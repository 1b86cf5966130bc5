"""FID in the middle of training, within a share of its time."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from time import monotonic
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from diffusion_lab.callbacks.evaluating import evaluating, every_class, parts
from diffusion_lab.callbacks.forecast import Forecast
from diffusion_lab.callbacks.together import all_do
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion import Sampler, sample_steps
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.choice import extractor_for, reference_for
from diffusion_lab.evaluation.extractor import Extractor, Features, load_extractor
from diffusion_lab.evaluation.metrics import frechet_distance
from diffusion_lab.evaluation.reference import Moments
from diffusion_lab.modules import DiffusionModule

log = logging.getLogger(__name__)

FID = "val/fid"


class FIDEstimate(L.Callback):
    """Logs `val/fid`: FID of images drawn from the averaged weights against the test images.

    Every `every_n_epochs` epochs and at the end. An estimate that would make all of them take more
    than `share` of the training's wall time is put off to the end of a later epoch; the last one
    never is. Image k of a seed is the same in every estimate, and in scripts/evaluate.py with that
    seed. Drawn in batches of `batch_size`, shared out among the processes, which does not change
    the value.

    `estimates` holds (optimizer steps, FID) of each, `spent` the seconds that they took.

    Args:
        sampler: walks from noise to images.
        num_samples: images; FID falls with their number, so figures at different ones do not
            compare.
        every_n_epochs: how often.
        share: of the wall time of the training so far, above 0 and at most 1; None for no limit.
        extractor: what looks at the images, as `load_extractor` takes it; None for the shipped one
            of the data.
        batch_size: images that are drawn at once.
        seed: of the images.

    Raises:
        UserError: for a number out of range and, before the first step, where no extractor fits the
            data.

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
    ) -> None:
        least = {"num_samples": 2, "every_n_epochs": 1, "batch_size": 1, "seed": 0}
        for name, value in zip(
            least, (num_samples, every_n_epochs, batch_size, seed), strict=True
        ):
            if value < least[name]:
                raise UserError(f"callbacks.fid.{name}={value}: expected at least {least[name]}")
        if share is not None and not 0 < share <= 1:
            raise UserError(
                f"callbacks.fid.share={share}: expected a share of the run's time, above 0 and at "
                "most 1, or null for no limit"
            )
        self.sampler, self.extractor_name = sampler, extractor
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.every_n_epochs, self.share = every_n_epochs, share
        self.estimates: list[tuple[int, float]] = []
        self.spent = 0.0
        self._trained = 0.0  # seconds before this process took the run up
        self._began: float | None = None
        self._expected = 0.0  # seconds that the next estimate will take
        self._due = self._has_put_off = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find what judges the images, or refuse."""
        module, data = parts(trainer, pl_module)
        self.sampler.check(module.noise_schedule)
        setting = "callbacks.fid.extractor"
        self.extractor: Extractor = load_extractor(
            self.extractor_name or extractor_for(data.dataset, setting)
        )
        self.extractor.fit(torch.zeros(1, *data.image_shape, dtype=torch.uint8))
        if self.num_samples <= self.extractor.num_features:
            raise UserError(
                f"callbacks.fid.num_samples={self.num_samples}: FID by {self.extractor.name} needs "
                f"more than its {self.extractor.num_features} features, 2000 for example"
            )
        self.real = reference_for(
            self.extractor, data.dataset, data.image_set, data.data_dir
        ).test_moments

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, try a few network calls and say how long an estimate will take."""
        self._began = monotonic()
        [(calls, self._expected), *_] = all_do(trainer, lambda: self._cost(trainer, pl_module))
        self.spent += monotonic() - self._began
        every = "epoch" if self.every_n_epochs == 1 else f"{self.every_n_epochs} epochs"
        limit = "" if self.share is None else f", at most {self.share:.0%} of the run's time"
        _say(
            f"FID of {self.num_samples:,} samples: about {_time(self._expected)} every {every} "
            f"({calls} network calls each){limit}"
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Estimate if it is time and there is time; checkpoint callbacks come after this."""
        self._due |= (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if _is_last(trainer) or (self._due and self._fits(trainer)):
            # to the callbacks that judge by it and, with the epoch's other metrics, to the loggers
            pl_module.log(FID, self._estimate(trainer, pl_module), sync_dist=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make up for an end that was not known before, as by early stopping."""
        if self.is_new(trainer):
            return
        value = self._estimate(trainer, pl_module)
        trainer.callback_metrics[FID] = torch.tensor(value)
        for logger in trainer.loggers:
            logger.log_metrics({FID: value}, trainer.global_step - 1)

    def is_new(self, trainer: L.Trainer) -> bool:
        """Whether the last estimate is of the weights as they are now."""
        return bool(self.estimates) and self.estimates[-1][0] == trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, for the checkpoint."""
        return {
            "estimates": self.estimates,
            "spent": self.spent,
            "trained": self._elapsed(),
            "due": self._due,
            "has_put_off": self._has_put_off,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.estimates = [(step, value) for step, value in state_dict["estimates"]]
        self.spent, self._trained = state_dict["spent"], state_dict["trained"]
        self._due, self._has_put_off = state_dict["due"], state_dict["has_put_off"]

    def _elapsed(self) -> float:
        return self._trained + (0.0 if self._began is None else monotonic() - self._began)

    def _fits(self, trainer: L.Trainer) -> bool:
        """Whether one more estimate leaves all of them within the share, by the first's clock."""
        if self.share is None:
            return True
        would_be = (self.spent + self._expected) / (self._elapsed() + self._expected)
        fits: bool = trainer.strategy.broadcast(would_be <= self.share)
        if not fits and not self._has_put_off:
            self._has_put_off = True
            _say(
                f"epoch {trainer.current_epoch}: FID is put off, {_time(self._expected)} now would "
                f"make it {would_be:.0%} of the run's time (callbacks.fid.share={self.share:g}); "
                "it follows where there is room, and at the end"
            )
        return fits

    def _estimate(self, trainer: L.Trainer, pl_module: L.LightningModule) -> float:
        began = monotonic()
        module, data = parts(trainer, pl_module)

        def look() -> list[tuple[int, Features]]:
            with evaluating(trainer, module):
                return list(self._look(trainer, module, data))

        found = sorted(
            (batch for given in all_do(trainer, look) for batch in given), key=lambda b: b[0]
        )

        def compare() -> float | None:
            if not trainer.is_global_zero:  # in one, as the last bits may differ between machines
                return None
            own = Moments.of(Features.concatenate([features for _, features in found]).values)
            return frechet_distance(own.mean, own.covariance, self.real.mean, self.real.covariance)

        value = all_do(trainer, compare)[0]
        assert value is not None
        self._expected = monotonic() - began
        self.spent += self._expected
        self.estimates.append((trainer.global_step, value))
        self._due = False
        taken = self.spent / max(self._elapsed(), self.spent, 1e-9)
        _say(
            f"epoch {trainer.current_epoch}: FID of {self.num_samples:,} samples {value:.4g}, in "
            f"{_time(self._expected)}; {taken:.0%} of the run's time went into it so far"
        )
        return value

    def _batches(self, trainer: L.Trainer) -> list[tuple[int, int]]:
        """(first image, number) of the batches of this process."""
        n, size = self.num_samples, self.batch_size
        batches = [(first, min(size, n - first)) for first in range(0, n, size)]
        return batches[trainer.global_rank :: trainer.world_size]

    def _look(
        self, trainer: L.Trainer, module: DiffusionModule, data: ImageDataModule
    ) -> Iterator[tuple[int, Features]]:
        """Draw this process's batches: the first image and the features of each."""
        batches = self._batches(trainer)
        bar = tqdm(
            batches, "FID", unit=" batches", disable=trainer.global_rank > 0 or None, leave=False
        )
        for first, count in bar:
            *_, last = sample_steps(
                every_class(module, count, first),
                module.noise_schedule,
                self.sampler,
                data.image_shape,
                num_images=count,
                seed=self.seed,
                first=first,
                device=module.device,
            )
            yield first, self.extractor(data.value_range.decode(last.x_next).cpu())

    def _cost(self, trainer: L.Trainer, pl_module: L.LightningModule) -> tuple[int, float]:
        """(network calls an image, seconds an estimate)."""
        module, data = parts(trainer, pl_module)
        mine = sum(count for _, count in self._batches(trainer))
        with evaluating(trainer, module):
            forecast = Forecast(module, data, self.sampler)
            size = min(self.batch_size, self.num_samples)
            return forecast.num_calls, mine * forecast.seconds_per_image(self.extractor, size)


def _is_last(trainer: L.Trainer) -> bool:
    """Whether training ends with this epoch, as far as is known at its end."""
    steps, epochs = trainer.max_steps, trainer.max_epochs
    return (
        trainer.should_stop
        or 0 < steps <= trainer.global_step
        or (epochs is not None and 0 < epochs <= trainer.current_epoch + 1)
    )


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else str(timedelta(seconds=round(seconds)))


@rank_zero_only
def _say(text: str) -> None:
    log.info("%s", text)

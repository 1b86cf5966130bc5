"""Evaluation mode with the averaged weights, for callbacks that sample during training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning as L
import torch

from diffusion_lab.callbacks.ema import averaged
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion import Sampler
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.sampling.conditioning import Conditioning


def parts(trainer: L.Trainer, module: L.LightningModule) -> tuple[DiffusionModule, ImageDataModule]:
    """Return the module and the trainer's data module, asserted to be of this project's types."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(module, DiffusionModule)
    assert isinstance(data, ImageDataModule)
    return module, data


@contextmanager
def evaluating(trainer: L.Trainer, module: DiffusionModule) -> Iterator[None]:
    """Use averaged weights, evaluation mode and no gradients; restore everything afterwards."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), averaged(trainer, module):
            yield
    finally:
        module.train(training)


def conditioning_of(
    module: DiffusionModule,
    sampler: Sampler,
    guidance_scale: float,
    guidance_interval: Sequence[float] | None,
) -> Conditioning:
    """Return class labels and guidance for samples during training.

    Image k has class k % num_classes if there are classes. Raises UserError for a sampler or
    guidance that does not fit the module.
    """
    sampler.check(module.noise_schedule)
    return Conditioning.of(module, None, guidance_scale, guidance_interval)

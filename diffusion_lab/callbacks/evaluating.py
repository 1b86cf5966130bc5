"""What callbacks need that draw images in the middle of training."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import lightning as L
import torch

from diffusion_lab.callbacks.ema import averaged
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion import Denoise
from diffusion_lab.modules import DiffusionModule


def parts(trainer: L.Trainer, module: L.LightningModule) -> tuple[DiffusionModule, ImageDataModule]:
    """The module and the data by their own types."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(module, DiffusionModule)
    assert isinstance(data, ImageDataModule)
    return module, data


@contextmanager
def evaluating(trainer: L.Trainer, module: DiffusionModule) -> Iterator[None]:
    """Averaged weights, evaluation mode, no gradients, the training's random stream left alone."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), averaged(trainer, module):
            yield
    finally:
        module.train(training)


def every_class(module: DiffusionModule, count: int, first: int = 0) -> Denoise:
    """The module's denoiser for images first .. first + count - 1.

    Its classes are dealt out in turn if it has any: image k is of class k % num_classes.
    """
    if module.num_classes is None:
        return module.denoise
    labels = torch.arange(first, first + count, device=module.device) % module.num_classes
    return partial(module.denoise, labels=labels)

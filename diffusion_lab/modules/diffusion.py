"""The training objective: add noise to images, run the network, compare output and target."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from diffusion_lab.data.augmentation import Augmentation
from diffusion_lab.data.value_range import RANGES, ValueRange
from diffusion_lab.diffusion.noise_schedule import NoiseSchedule, per_image
from diffusion_lab.diffusion.pairing import independent
from diffusion_lab.diffusion.prediction import Prediction
from diffusion_lab.diffusion.time_sampling import TimeSampling, UniformTime
from diffusion_lab.diffusion.weighting import UniformWeighting, Weighting
from diffusion_lab.errors import UserError
from diffusion_lab.modules.clipped_error import clipped_error
from diffusion_lab.networks.layers import zeroed
from diffusion_lab.optim.lr_schedule import Constant, LRSchedule
from diffusion_lab.system.lightning import callbacks_of, gathered_batches

Pairing = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x0, noise, classes (B,) or None) -> the noise, reordered. Images are (B, C, H, W)."""
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class DiffusionModule(L.LightningModule):
    """LightningModule for any network, noise schedule, prediction and weighting.

    The network is called as network(x_t, time, labels), with `time` (B,) float32 in [0, 1000] for
    every noise schedule, not in [0, 1]. Batches are (x0 (B, C, H, W), labels (B,)), or (x0, labels,
    noise) with the noise (B, C, H, W) for each x0. If a trained model generated each x0 from its
    noise, the loss is that of reflow: Liu et al. 2022 (arXiv 2209.03003), algorithm 1. With
    `num_classes` the network gets labels. A fraction `label_dropout` of the labels is replaced by
    the null class, so that one network learns both branches of guidance (Ho & Salimans 2022, arXiv
    2207.12598, algorithm 1).

    `clipped_to` names the value range to which samples will be clipped; predictions outside this
    range are then not penalised (see `clipped_error`). Use `clipped_to` for networks that generate
    an image in one evaluation, because their black pixels otherwise keep some noise. Do not use it
    for networks whose output is a mean over possible images.

    `augment` transforms the training images. The network gets a description of the transformation
    and needs the attribute `embedding_channels` for this (see `diffusion_lab.networks`). Validation
    images are not transformed.

    Raises UserError if the prediction is undefined for the noise schedule.
    """

    def __init__(
        self,
        network: nn.Module,
        noise_schedule: NoiseSchedule,
        prediction: Prediction,
        weighting: Weighting | None = None,
        time_sampling: TimeSampling | None = None,
        pairing: Pairing = independent,
        optimizer: MakeOptimizer = torch.optim.Adam,
        lr_scheduler: LRSchedule | None = None,
        num_classes: int | None = None,
        label_dropout: float = 0.1,
        clipped_to: str | None = None,
        augment: Augmentation | None = None,
    ) -> None:
        super().__init__()
        prediction.check(noise_schedule)
        if not 0 <= label_dropout <= 1:
            raise UserError(f"model.label_dropout={label_dropout}: expected a number from 0 to 1")
        if clipped_to not in (None, *RANGES):
            raise UserError(
                f"model.clipped_to={clipped_to}: expected {' or '.join(RANGES)}, or null"
            )
        # channels_last is 1.3 to 1.7 times faster on a CPU, and the layout of tensor cores; a
        # network for which another format is faster has it as its memory_format
        self.network = network
        self.lay_out(getattr(network, "memory_format", torch.channels_last))
        self.noise_schedule = noise_schedule
        self.prediction = prediction
        self.weighting = weighting or UniformWeighting()
        self.time_sampling = time_sampling or UniformTime()
        self.pairing = pairing
        self.make_optimizer = optimizer
        self.lr_schedule = lr_scheduler or Constant()
        self.num_classes = num_classes
        self.label_dropout = label_dropout
        self.clipped_to = None if clipped_to is None else ValueRange(clipped_to)
        self.augment = augment
        if augment is not None:
            channels = getattr(network, "embedding_channels", None)
            if channels is None:
                raise UserError(
                    "augment= needs a network with an input for the transformation, which "
                    f"{type(network).__name__} does not have: type network=unet_fast, unet2d, "
                    "unet_cifar, dit or mlp, or leave out augment="
                )
            # no bias: zeros, which sampling and exports use, must add nothing
            self.augment_embedding = zeroed(nn.Linear(augment.num_values, channels, bias=False))

    def lay_out(self, memory_format: torch.memory_format) -> None:
        """Set the memory format of the network's weights."""
        self.memory_format = memory_format
        self.network.to(memory_format=memory_format)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """Return the network's raw output (B, C, H, W) at x_t (B, C, H, W) and t (B,).

        `labels` (B,) are classes from 0 to num_classes, where num_classes is the null class. With
        None every image gets the null class. `augmentation` (B, augment.num_values) describes the
        transformation of each image; None stands for zeros, no transformation.
        """
        if self.num_classes is not None and labels is None:
            labels = torch.full((len(x_t),), self.num_classes, device=x_t.device)
        # with 16-true precision only the network is half precision; the noise schedule is float32
        scaled = x_t * per_image(self.noise_schedule.input_scale(t), x_t)
        time = self.noise_schedule.network_time(t)
        condition: tuple[Tensor, ...] = ()  # networks need not take one
        if augmentation is not None:
            condition = (self.augment_embedding(augmentation.to(self.dtype)),)
        return self.network(scaled.to(self.dtype), time, labels, *condition).to(x_t.dtype)

    def losses(
        self,
        x0: Tensor,
        noise: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        augmentation: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the squared error on the target and the weighted loss of each image.

        The images x0 and noise are (B, C, H, W), t and labels (B,), and augmentation is
        (B, augment.num_values). -> (B,) and (B,).
        """
        alpha, sigma = self.noise_schedule.alpha(t), self.noise_schedule.sigma(t)
        x_t = per_image(alpha, x0) * x0 + per_image(sigma, x0) * noise
        output = self(x_t, t, labels, augmentation)
        if self.clipped_to is None:
            target = self.prediction.target(x0, noise, alpha, sigma)
            error = (output - target).square().flatten(1).mean(1)
        else:
            error = clipped_error(
                output, x0, noise, x_t, alpha, sigma, self.prediction, self.clipped_to
            )
        return error, self.weighting(error, alpha, sigma, self.prediction)

    def denoise(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Estimate the clean images from x_t (B, C, H, W) at t (B,). -> (B, C, H, W)."""
        alpha, sigma = self.noise_schedule.alpha(t), self.noise_schedule.sigma(t)
        return self.prediction.to_clean(self(x_t, t, labels), x_t, alpha, sigma)

    def network_labels(self, labels: Tensor, dropout: float = 0.0) -> Tensor | None:
        """Return labels (B,) for the network, or None if the network has no classes.

        Each label becomes the null class with probability `dropout`.
        """
        if self.num_classes is None:
            return None
        if not dropout:  # validation must not change the training's random state
            return labels
        dropped = torch.rand(len(labels), device=labels.device) < dropout
        return labels.masked_fill(dropped, self.num_classes)

    def draw(
        self, x0: Tensor, labels: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Draw times, noise unless it is given, and transformations; return `losses`' arguments.

        Returns x0, noise, times, the network's labels, and the values that describe the
        transformation of x0 (None without `augment`).
        """
        augmentation = None
        if self.augment is not None:
            x0, augmentation = self.augment(x0)
        if noise is None:
            classes = None if self.num_classes is None else labels
            noise = self.pairing(x0, self.noise_schedule.draw_noise(x0), classes)
        t = self.time_sampling.draw(len(x0), self.noise_schedule, x0.device)
        return x0, noise, t, self.network_labels(labels, self.label_dropout), augmentation

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> dict[str, Tensor]:
        """Compute the mean loss of a batch with fresh noise and times.

        Returns the mean "loss" (), and for callbacks, per image (B,): "losses", the "error" on the
        target, and "t". This method does not log; add the callback StepLog to the Trainer to log
        `train/loss`.
        """
        x0, noise, t, labels, augmentation = self.draw(*batch)
        error, losses = self.losses(x0, noise, t, labels, augmentation)
        return {"loss": losses.mean(), "losses": losses.detach(), "error": error.detach(), "t": t}

    def on_train_start(self) -> None:
        """Set the learning rate of a resumed run, whose limit on steps or time may have changed."""
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, LambdaLR) and self.trainer.global_step:
                factor = self._lr_factor(self.trainer.global_step)
                for group, lr in zip(
                    scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True
                ):
                    group["lr"] = lr * factor

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Accumulate gradients, averaged over the batches of an optimizer step.

        Lightning has divided the loss by `accumulate_grad_batches`. The last optimizer step of an
        epoch may have fewer batches, so the loss is rescaled there.
        """
        size = self.trainer.accumulate_grad_batches
        if size > 1 and (gathered := gathered_batches(self.trainer)) < size:
            loss = loss * (size / gathered)
        super().backward(loss, *args, **kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients, except in a skipped step, because torch cannot clip without gradients."""
        if any(p.grad is not None for p in self.parameters()):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> dict[str, Tensor]:
        """Log the unweighted error on the target as `val/loss`.

        Noise and times depend only on the batch's number, so the error is comparable between
        epochs, and between weightings of the same target. Returns for callbacks, per image (B,):
        the weighted "losses", the "error" and "t".
        """
        x0, labels, *paired = batch
        number = batch_idx * self.trainer.world_size + self.global_rank
        generator = torch.Generator().manual_seed(number)
        noise = paired[0] if paired else self.noise_schedule.draw_noise(x0, generator)
        t = self.time_sampling.draw(len(x0), self.noise_schedule, "cpu", generator).to(x0.device)
        error, losses = self.losses(x0, noise, t, self.network_labels(labels))
        self.log("val/loss", error.mean(), prog_bar=True, sync_dist=True, batch_size=len(x0))
        return {"losses": losses, "error": error, "t": t}

    def training_progress(self, step: int) -> float:
        """Return the fraction of the training that is done after `step` optimizer steps, in [0, 1].

        With limits on both steps (or epochs) and time (`trainer.max_time`), the larger fraction
        counts. The time is measured in this process. Distributed processes are not synchronised
        here, because a progress bar calls this function in one process only.
        """
        trainer = self.trainer
        total = trainer.estimated_stepping_batches
        share = step / total if math.isfinite(total) and total > 0 else 0.0
        for timer in callbacks_of(trainer, Timer):
            if (left := timer.time_remaining()) is not None:
                elapsed = timer.time_elapsed()
                share = max(share, elapsed / (elapsed + left))
        return min(share, 1.0)

    def _lr_factor(self, step: int) -> float:
        if isinstance(self.lr_schedule, Constant):  # calculating the fraction takes time
            return 1.0
        share = self.training_progress(step) if step else 0.0
        if self.trainer.world_size > 1:  # their clocks differ, but learning rates must not
            share = self.trainer.strategy.broadcast(share)
        return self.lr_schedule(share)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its learning-rate schedule."""
        optimizer = self.make_optimizer(self.parameters())
        # a fused optimizer would unscale the gradients of 16-mixed itself, in its step; clipping
        # and FiniteLoss, which come before the step, would see scaled gradients
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        scheduler = LambdaLR(optimizer, lambda step: self._lr_factor(step))
        interval = "epoch" if isinstance(self.lr_schedule, Constant) else "step"
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": interval, "name": "lr"},
        }

"""Detect non-finite losses, gradients and weights; save the step for debugging, skip it or stop."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import Optimizer

from diffusion_lab.callbacks.anomaly import Batch, Step, write_anomaly
from diffusion_lab.errors import Diverged, UserError
from diffusion_lab.system.lightning import callbacks_of

log = logging.getLogger(__name__)

_LARGEST_NORM = math.sqrt(torch.finfo(torch.float32).max)  # optimizers keep squares of gradients


@dataclass
class _StepNumbers:
    """Losses and gradient norms of an optimizer step, copied from a GPU asynchronously."""

    step: Step
    last_step: Step | None
    """The step that produced the current weights; None if these weights have been checked."""
    names: list[str]
    """Names of the parameters that have a gradient."""
    numbers: Tensor
    """The losses of the accumulated batches, then the norm of each gradient, in one vector."""
    arrival: torch.cuda.Event | None = None

    def start_copy(self) -> "_StepNumbers":
        """Start copying the numbers to the CPU, and return self without waiting."""
        on_gpu = self.numbers.is_cuda
        self.numbers = self.numbers.to("cpu", non_blocking=True)  # into pinned memory
        if on_gpu:
            self.arrival = torch.cuda.Event()
            self.arrival.record()
        return self

    def read(self) -> list[float]:
        """Return the numbers, after waiting for a copy that `start_copy` began."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return self.numbers.tolist()


class FiniteLoss(L.Callback):
    """Stop a run whose loss or gradient is not finite, before the optimizer step changes anything.

    Weights, moving averages, optimizer state and checkpoints stay those of the last finite step.
    The first `skip` non-finite steps of a run are skipped instead: they only advance the step
    number, on which the learning rate and the end of training depend. A gradient is checked by its
    norm, because a norm that overflows ruins the optimizer's moments although no element is
    infinite. With 16-mixed precision an infinite gradient of a finite loss is left to the gradient
    scaler, which skips the step and lowers its scale, until the scale is below 1.

    A step with a finite gradient is never skipped, although it may make weights non-finite (with a
    huge learning rate, or with 16-true precision), or running statistics of BatchNorm. Such values
    show in the next loss, and are also checked before every validation, sampling and checkpoint.
    The run then stops, and keeps the checkpoints saved before.

    In each of these cases `anomaly.pt` is written to the run folder, for `debug=replay`. A run that
    stops raises Diverged in all processes.

    On one NVIDIA GPU, with `skip=0` and without a gradient scaler, no step waits for the check.
    Instead the losses and norms are copied while the next step is computed, a copy of the previous
    weights is kept for anomaly.pt, and the run stops one step later. In all other cases every
    optimizer step waits for its check.
    """

    def __init__(self, skip: int = 0) -> None:
        if skip < 0:
            raise UserError(f"callbacks.finite_loss.skip={skip}: expected at least 0")
        self.skip = skip
        self.skipped = 0
        self.skipping = False  # the last step was skipped: averages leave it out too
        self._batches: list[Batch] = []  # of the coming optimizer step
        self._last_step: Step | None = None  # until the weights it produced are checked
        self._finite_after = 0  # the last step after which the weights were checked and finite
        self._diverged: Diverged | None = None
        self._late = False
        self._copying: _StepNumbers | None = None
        self._names: list[str] = []
        self._parameters: list[nn.Parameter] = []
        self._weights: list[Tensor] = []  # the parameters' memory, detached
        self._before: list[Tensor] = []  # the weights before the step that is being checked
        self._buffers: list[Tensor] = []  # running statistics, which no optimizer step sets

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the parameters once, because traversing the modules is slower than the check."""
        named = dict(pl_module.named_parameters())
        self._names, self._parameters = list(named), list(named.values())
        self._weights = [p.detach() for p in self._parameters]
        alone = trainer.world_size == 1 and _scaler(trainer) is None
        self._late = alone and not self.skip and _is_asynchronous(pl_module.device)
        self._before = [w.clone() for w in self._weights] if self._late else self._weights
        self._buffers = [
            b for b in pl_module.buffers() if b.is_floating_point() and b.isfinite().all()
        ]
        self._batches, self._last_step, self._copying = [], None, None
        self._finite_after, self._diverged = trainer.global_step, None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record the batch and the random states, before noise is sampled for the batch."""
        self.skipping = False
        self._batches.append(Batch.before_sampling(trainer, pl_module, batch, batch_idx))

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Record the loss of the batch, without waiting for its device."""
        self._batches[-1].loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Check losses and gradients before the optimizer step and before gradient clipping."""
        gradients = [g for p in self._parameters if (g := p.grad) is not None]
        norms = torch._foreach_norm(gradients)
        numbers = torch.stack([*(batch.loss for batch in self._batches), *norms])
        names = self._names
        if len(gradients) < len(names):
            names = [n for n, p in zip(names, self._parameters, strict=True) if p.grad is not None]
        scaler = _scaler(trainer)
        scale = 1.0 if scaler is None else scaler.get_scale()
        step = Step(trainer.global_step + 1, trainer.current_epoch, self._batches, scale)
        current = _StepNumbers(step, self._last_step, names, numbers)
        if self._late:
            self._check_copied(trainer, pl_module)
            self._copying = current.start_copy()
            torch._foreach_copy_(self._before, self._weights)
        elif not self._check_step(trainer, pl_module, current):
            # torch's optimizers ignore parameters without a gradient: their moments stay as well
            optimizer.zero_grad(set_to_none=True)
        self._batches, self._last_step = [], step

    def settle(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete all pending checks, so that the current weights may be used or saved.

        Raises Diverged if a check fails, and again on every later call.
        """
        if self._diverged is not None:
            raise self._diverged
        self._check_copied(trainer, pl_module)
        if self._last_step is None:
            return
        if self._late:
            torch._foreach_copy_(self._before, self._weights)
        everything = [*self._before, *self._buffers]
        self._check_tensors(trainer, pl_module, self._last_step, everything)
        self._last_step = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete the pending checks before validation."""
        self.settle(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete the pending checks before other callbacks sample."""
        self.settle(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Complete the pending checks before a checkpoint is written."""
        self.settle(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raise Diverged if the validation loss is not finite, before `best` is saved.

        Even finite weights may give a validation loss that is not finite.
        """
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not trainer.sanity_checking and not loss.isfinite():
            self._keep_checkpoints(trainer)
            self._diverged = Diverged(
                f"the validation loss is {loss.item():g} after step {trainer.global_step}, "
                "although all weights are finite; lower optimizer.lr="
            )
            raise self._diverged

    def state_dict(self) -> dict[str, Any]:
        """Return the number of skipped steps, so that a resumed run counts on towards `skip`."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of skipped steps."""
        self.skipped = state_dict["skipped"]

    def _check_copied(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        copied, self._copying = self._copying, None
        if copied is not None:
            self._check_step(trainer, module, copied)

    def _check_step(
        self, trainer: L.Trainer, module: L.LightningModule, current: _StepNumbers
    ) -> bool:
        """Return True if the optimizer may take the step, False if the step must be skipped.

        Raises Diverged if the step is not finite and `skip` steps were skipped before.
        """
        numbers, batches = current.read(), len(current.step.batches)
        losses, norms = numbers[:batches], numbers[batches:]
        bad_loss = not all(map(math.isfinite, losses))
        if not _any(trainer, bad_loss or not math.hypot(*norms) < _LARGEST_NORM):
            return True
        if current.last_step is not None:
            self._check_tensors(trainer, module, current.last_step, self._before)
        infinite = not all(map(math.isfinite, norms))
        if not _any(trainer, bad_loss) and _any(trainer, infinite) and _scaler_can_help(trainer):
            return True
        name, norm = max(
            zip(current.names, norms, strict=True), key=lambda each: (math.isnan(each[1]), each[1])
        )
        count = sum(not math.isfinite(norm) for norm in norms)
        what = (
            f"the largest gradient norm is {norm:g} in {name}, {count} parameters have a gradient "
            "norm that is not finite"
        )
        if self.skipped >= self.skip:
            self._stop(trainer, module, current.step, what)
        self.skipped += 1
        self.skipping = True
        line = self._write(trainer, module, current.step, what)
        log.warning("skipped (%d of %d): %s", self.skipped, self.skip, line)
        return False

    def _check_tensors(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        step: Step,
        tensors: Sequence[Tensor],
    ) -> None:
        """Raise Diverged if weights or buffers are not finite after the optimizer step `step`."""
        norms = torch._foreach_norm([t for t in tensors if t.numel()], torch.inf)
        largest = torch.stack(norms).tolist()
        bad = [value for value in largest if not math.isfinite(value)]
        if _any(trainer, bool(bad)):
            value = bad[0] if bad else max(largest)  # bad only in another process
            what = f"the gradient is finite, but a weight or buffer is {value:g} after the step"
            if self._finite_after < step.number - 1:
                what += f" (all were finite after step {self._finite_after})"
            self._stop(trainer, module, step, what)
        self._finite_after = step.number

    def _write(self, trainer: L.Trainer, module: L.LightningModule, step: Step, what: str) -> str:
        before = {id(p): w for p, w in zip(self._parameters, self._before, strict=True)}
        named = module.named_parameters(remove_duplicate=False)
        return write_anomaly(trainer, module, step, what, {n: before[id(p)] for n, p in named})

    def _stop(
        self, trainer: L.Trainer, module: L.LightningModule, step: Step, what: str
    ) -> NoReturn:
        self._keep_checkpoints(trainer)
        self._diverged = Diverged(
            f"optimizer step {step.number} is not finite: {what}; lower optimizer.lr="
        )
        self._diverged = Diverged(self._write(trainer, module, step, what))
        raise self._diverged

    @staticmethod
    def _keep_checkpoints(trainer: L.Trainer) -> None:
        """Turn off saving on the coming exception, to keep the last finite checkpoints on disk."""
        for checkpoint in callbacks_of(trainer, ModelCheckpoint):
            checkpoint.save_on_exception = False


def _is_asynchronous(device: torch.device) -> bool:
    """Return True if the device queues its work, so that results are copied without waiting."""
    return device.type == "cuda"


def _any(trainer: L.Trainer, flag: bool) -> bool:
    """Return True if the flag is set in any process."""
    if trainer.world_size == 1:
        return flag
    return trainer.strategy.reduce_boolean_decision(flag, all=False)


def _scaler(trainer: L.Trainer) -> torch.amp.GradScaler | None:
    return getattr(trainer.precision_plugin, "scaler", None)


def _scaler_can_help(trainer: L.Trainer) -> bool:
    """Return True if a gradient scaler will skip this step and can still lower its scale."""
    scaler = _scaler(trainer)
    return scaler is not None and scaler.get_scale() >= 1

"""Numbers that go bad: a step that is not finite is not taken, and can be looked at afterwards."""

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

_LARGEST_NORM = math.sqrt(torch.finfo(torch.float32).max)  # optimizers keep squares


@dataclass
class _Verdict:
    """What a step is judged by; from a GPU the numbers are on their way."""

    step: Step
    taken: Step | None
    """The step that made the weights, None if they have been judged."""
    names: list[str]
    """The parameters that have a gradient."""
    numbers: Tensor
    """The losses and the norm of each gradient."""
    arrival: torch.cuda.Event | None = None

    def sent(self) -> "_Verdict":
        """The same on its way to the CPU, not waited for."""
        on_gpu = self.numbers.is_cuda
        self.numbers = self.numbers.to("cpu", non_blocking=True)  # into pinned memory
        if on_gpu:
            self.arrival = torch.cuda.Event()
            self.arrival.record()
        return self

    def read(self) -> list[float]:
        """The numbers, when they are there."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return self.numbers.tolist()


class FiniteLoss(L.Callback):
    """Stops a run whose loss or gradient is not finite, before the optimizer has taken the step.

    Weights, moving averages, optimizer and the checkpoints stay those of the last good step. The
    first `skip` such steps of a run, counted together, are left out instead: nothing changes in
    them but the step number, by which learning rate and end of training go. A gradient counts by
    its norm: one that overflows spoils the optimizer's moments although no element is infinite.
    With 16-mixed precision an infinite gradient of a finite loss is left to the gradient scaler,
    which skips such steps and scales less, until it has nothing left to take away.

    Weights that are not finite after a step with a finite gradient (a huge learning rate, 16-true)
    cannot be skipped, nor can statistics that a layer gathers (BatchNorm). They show in the next
    loss, or are looked for before anything is validated, drawn or saved; the run stops, with the
    checkpoints of before.

    Each time `anomaly.pt` in the run folder is written, for `debug=replay`. Raises Diverged, in all
    processes alike.

    On one NVIDIA GPU, with `skip=0` and without a gradient scaler, no step waits: its numbers
    travel while the next is computed, a copy of the weights of before is kept for anomaly.pt, and
    the run stops one step later. Elsewhere the optimizer waits for the verdict, once a step.
    """

    def __init__(self, skip: int = 0) -> None:
        if skip < 0:
            raise UserError(f"callbacks.finite_loss.skip={skip}: expected at least 0")
        self.skip = skip
        self.skipped = 0
        self.skipping = False  # the step that has just ended was left out: averages skip it too
        self._batches: list[Batch] = []  # whose gradients are in the step to come
        self._taken: Step | None = None  # the last step, while its weights are to be judged
        self._sound = 0  # the step after which they were looked at and found finite
        self._diverged: Diverged | None = None
        self._late = False
        self._travelling: _Verdict | None = None
        self._names: list[str] = []
        self._parameters: list[nn.Parameter] = []
        self._weights: list[Tensor] = []  # the same memory, apart from autograd
        self._before: list[Tensor] = []  # what the weights were when the step came to be judged
        self._gathered: list[Tensor] = []  # by layers, not by the optimizer

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the parameters once: walking through the modules takes longer than the verdict."""
        named = dict(pl_module.named_parameters())
        self._names, self._parameters = list(named), list(named.values())
        self._weights = [p.detach() for p in self._parameters]
        alone = trainer.world_size == 1 and _scaler(trainer) is None
        self._late = alone and not self.skip and _runs_behind(pl_module.device)
        self._before = [w.clone() for w in self._weights] if self._late else self._weights
        self._gathered = [
            b for b in pl_module.buffers() if b.is_floating_point() and b.isfinite().all()
        ]
        self._batches, self._taken, self._travelling = [], None, None
        self._sound, self._diverged = trainer.global_step, None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the batch and where the random streams are, before anything is drawn."""
        self.skipping = False
        self._batches.append(Batch.before_draws(trainer, pl_module, batch, batch_idx))

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Remember the loss where it is."""
        self._batches[-1].loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Judge the step; called after the last backward pass, unscaled and before clipping."""
        gradients = [g for p in self._parameters if (g := p.grad) is not None]
        norms = torch._foreach_norm(gradients)
        numbers = torch.stack([*(batch.loss for batch in self._batches), *norms])
        names = self._names
        if len(gradients) < len(names):
            names = [n for n, p in zip(names, self._parameters, strict=True) if p.grad is not None]
        scaler = _scaler(trainer)
        scale = 1.0 if scaler is None else scaler.get_scale()
        step = Step(trainer.global_step + 1, trainer.current_epoch, self._batches, scale)
        verdict = _Verdict(step, self._taken, names, numbers)
        if self._late:
            self._judge_travelling(trainer, pl_module)
            self._travelling = verdict.sent()
            torch._foreach_copy_(self._before, self._weights)
        elif not self._scorer(trainer, pl_module, verdict):
            # torch's optimizers pass over parameters without a gradient: their moments stay as well
            optimizer.zero_grad(set_to_none=True)
        self._batches, self._taken = [], step

    def settle(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge all that has been done so far, before anybody uses it.

        Raises Diverged, and once more whenever it is asked after that.
        """
        if self._diverged is not None:
            raise self._diverged
        self._judge_travelling(trainer, pl_module)
        if self._taken is None:
            return
        if self._late:
            torch._foreach_copy_(self._before, self._weights)
        everything = [*self._before, *self._gathered]
        self._judge_tensors(trainer, pl_module, self._taken, everything)
        self._taken = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called before the average is validated."""
        self.settle(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called before the callbacks that draw."""
        self.settle(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Called before the file is written."""
        self.settle(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge the validation before `best` does: finite weights may give a loss that is not."""
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not trainer.sanity_checking and not loss.isfinite():
            self._let_nothing_be_saved(trainer)
            self._diverged = Diverged(
                f"the validation loss is {loss.item():g} after step {trainer.global_step}, from "
                "finite weights: lower optimizer.lr"
            )
            raise self._diverged

    def state_dict(self) -> dict[str, Any]:
        """How many were skipped, so that a run that is taken up again skips no more of them."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped = state_dict["skipped"]

    def _judge_travelling(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        verdict, self._travelling = self._travelling, None
        if verdict is not None:
            self._scorer(trainer, module, verdict)

    def _scorer(self, trainer: L.Trainer, module: L.LightningModule, verdict: _Verdict) -> bool:
        """Whether the step is to be taken; of a late verdict only False would be late, and raises.

        Raises Diverged where no more may be skipped.
        """
        seen, batches = verdict.read(), len(verdict.step.batches)
        losses, norms = seen[:batches], seen[batches:]
        bad_loss = not all(map(math.isfinite, losses))
        if not _any(trainer, bad_loss or not math.hypot(*norms) < _LARGEST_NORM):
            return True
        if verdict.taken is not None:
            self._judge_tensors(trainer, module, verdict.taken, self._before)
        infinite = not all(map(math.isfinite, norms))
        if not _any(trainer, bad_loss) and _any(trainer, infinite) and _scaler_can_help(trainer):
            return True
        name, norm = max(
            zip(verdict.names, norms, strict=True), key=lambda each: (math.isnan(each[1]), each[1])
        )
        count = sum(not math.isfinite(norm) for norm in norms)
        what = (
            f"the largest gradient norm is {norm:g} in {name}, {count} parameters have one that is "
            "not finite"
        )
        if self.skipped >= self.skip:
            self._stop(trainer, module, verdict.step, what)
        self.skipped += 1
        self.skipping = True
        line = self._write(trainer, module, verdict.step, what)
        log.warning("skipped (%d of %d): %s", self.skipped, self.skip, line)
        return False

    def _judge_tensors(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        taken: Step,
        tensors: Sequence[Tensor],
    ) -> None:
        """Raise Diverged if an element is not finite after this step."""
        norms = torch._foreach_norm([t for t in tensors if t.numel()], torch.inf)
        largest = torch.stack(norms).tolist()
        bad = [value for value in largest if not math.isfinite(value)]
        if _any(trainer, bool(bad)):
            value = bad[0] if bad else max(largest)  # of another process
            what = f"from a finite gradient, the weights are {value:g} after it"
            if self._sound < taken.number - 1:
                what += f" (and were finite after step {self._sound})"
            self._stop(trainer, module, taken, what)
        self._sound = taken.number

    def _write(self, trainer: L.Trainer, module: L.LightningModule, step: Step, what: str) -> str:
        before = {id(p): w for p, w in zip(self._parameters, self._before, strict=True)}
        named = module.named_parameters(remove_duplicate=False)
        return write_anomaly(trainer, module, step, what, {n: before[id(p)] for n, p in named})

    def _stop(
        self, trainer: L.Trainer, module: L.LightningModule, step: Step, what: str
    ) -> NoReturn:
        self._let_nothing_be_saved(trainer)
        self._diverged = Diverged(f"optimizer step {step.number} is not finite: {what}")
        self._diverged = Diverged(self._write(trainer, module, step, what))
        raise self._diverged

    @staticmethod
    def _let_nothing_be_saved(trainer: L.Trainer) -> None:
        """The last checkpoints that were written are the last good ones."""
        for checkpoint in callbacks_of(trainer, ModelCheckpoint):
            checkpoint.save_on_exception = False


def _runs_behind(device: torch.device) -> bool:
    """Whether what is computed there is queued, and copies of it may be."""
    return device.type == "cuda"


def _any(trainer: L.Trainer, flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if trainer.world_size == 1:
        return flag
    return trainer.strategy.reduce_boolean_decision(flag, all=False)


def _scaler(trainer: L.Trainer) -> torch.amp.GradScaler | None:
    return getattr(trainer.precision_plugin, "scaler", None)


def _scaler_can_help(trainer: L.Trainer) -> bool:
    """Whether a gradient scaler will skip this step and may scale the next one less."""
    scaler = _scaler(trainer)
    return scaler is not None and scaler.get_scale() >= 1

"""Numbers that go bad: a step that is not finite is not taken, and can be looked at afterwards."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import Optimizer

from diffusion_lab.atomic import replacing
from diffusion_lab.attached import attached
from diffusion_lab.callbacks.save_config import SaveConfig
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import Diverged, UserError
from diffusion_lab.modules import DiffusionModule

log = logging.getLogger(__name__)

ANOMALY_FILE = "anomaly.pt"
_UNKNOWN = torch.tensor(0.0)  # the loss, until the backward pass begins
_LARGEST_NORM = math.sqrt(torch.finfo(torch.float32).max)  # optimizers keep squares


@dataclass
class _Batch:
    """A batch whose gradients are in the step to come, and what is needed to draw for it again."""

    number: int
    tensors: tuple[Tensor, ...]
    indices: Tensor
    random_states: list[Tensor]
    loss: Tensor


class FiniteLoss(L.Callback):
    """Stops a run whose loss or gradient is not finite, before the optimizer has taken the step.

    Weights, moving averages, optimizer and the checkpoints stay those of the last good step. The
    first `skip` such steps of a run, counted together, are left out instead: nothing changes in
    them but the step number, by which learning rate and end of training go. A gradient counts by
    its norm: one that overflows spoils the optimizer's moments although no element is infinite.
    With 16-mixed precision an infinite gradient of a finite loss is left to the gradient scaler,
    which skips such steps and scales less, until it has nothing left to take away.

    Weights that are not finite after a step with a finite gradient (a huge learning rate, 16-true)
    cannot be skipped: the run stops, with the averages and the checkpoints of before.

    Each time `anomaly.pt` in the run folder is written, for `debug=replay`: of several accumulated
    batches the first whose loss is not finite, of several processes likewise. Raises Diverged, in
    all processes alike.

    The optimizer has to wait for this verdict, so on a GPU the queue is emptied twice a step, once
    by the gradient, once by the weights, and by nothing else; judging a step late would spare that
    and ruin the EMA.
    """

    def __init__(self, skip: int = 0) -> None:
        if skip < 0:
            raise UserError(f"callbacks.finite_loss.skip={skip}: expected at least 0")
        self.skip = skip
        self.skipped = 0
        self.skipping = False  # the step that has just ended was left out: averages skip it too
        self._stepping = False
        self._batches: list[_Batch] = []
        self._parameters: list[nn.Parameter] = []
        self._weights: list[Tensor] = []  # the same memory, apart from autograd

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the parameters once: walking through the modules takes longer than the verdict."""
        self._parameters = list(pl_module.parameters())
        self._weights = [p.detach() for p in self._parameters]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the batch and where the random streams are, before anything is drawn."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageDataModule)
        self.skipping = False
        states = _random_states(pl_module.device)
        self._batches.append(_Batch(batch_idx, batch, data.batch_indices(), states, _UNKNOWN))

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Remember the loss where it is."""
        self._batches[-1].loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Judge the step; called after the last backward pass, unscaled and before clipping."""
        self._stepping = True
        norms = torch._foreach_norm([g for p in self._parameters if (g := p.grad) is not None])
        seen = torch.stack([*(batch.loss for batch in self._batches), *norms]).tolist()  # one look
        bad_loss = not all(map(math.isfinite, seen[: len(self._batches)]))
        bad_gradient = not math.hypot(*seen[len(self._batches) :]) < _LARGEST_NORM
        if not self._any(trainer, bad_loss or bad_gradient):
            return
        if not self._any(trainer, bad_loss) and _scaler_can_help(trainer):
            return
        name, value, count = largest_gradient(pl_module.named_parameters())
        line = self._report(
            trainer,
            pl_module,
            f"the largest gradient is {value:g} in {name}, {count} parameters have one that is "
            "not finite",
        )
        if self.skipped == self.skip:
            raise Diverged(line)
        self.skipped += 1
        self.skipping = True
        log.warning("skipped (%d of %d): %s", self.skipped, self.skip, line)
        # torch's optimizers pass over parameters without a gradient: their moments stay as well
        optimizer.zero_grad(set_to_none=True)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Judge the weights; first of all callbacks, so that no average has seen them."""
        if not self._stepping:  # gradients are still being gathered
            return
        self._stepping = False
        norms = torch.stack(torch._foreach_norm(self._weights)).tolist()
        if self._any(trainer, not all(map(math.isfinite, norms))):
            self._judge_elements(trainer, pl_module)
        self._batches.clear()

    def _judge_elements(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at each weight, ten times as long: a square may overflow where it does not."""
        largest = torch.stack(torch._foreach_norm(self._weights, torch.inf)).tolist()
        bad = [value for value in largest if not math.isfinite(value)]
        if self._any(trainer, bool(bad)):
            value = bad[0] if bad else max(largest)  # of another process
            what = f"the step made the weights {value:g}, from a finite gradient"
            line = self._report(trainer, pl_module, what)
            for checkpoint in attached(trainer, ModelCheckpoint):
                checkpoint.save_on_exception = False  # the last one it wrote is the last good one
            raise Diverged(line)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge the validation before `best` does: finite weights may give a loss that is not."""
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not trainer.sanity_checking and not loss.isfinite():
            raise Diverged(
                f"the validation loss is {loss.item():g} after step {trainer.global_step}, from "
                "finite weights: lower optimizer.lr"
            )

    def state_dict(self) -> dict[str, Any]:
        """How many were skipped, so that a run that is taken up again skips no more of them."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped = state_dict["skipped"]

    @staticmethod
    def _any(trainer: L.Trainer, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if trainer.world_size == 1:
            return flag
        return trainer.strategy.reduce_boolean_decision(flag, all=False)

    def _report(self, trainer: L.Trainer, module: L.LightningModule, what: str) -> str:
        """Write anomaly.pt and say in one line what was wrong; in all processes the same."""
        assert isinstance(module, DiffusionModule)
        mine = [batch for batch in self._batches if not batch.loss.isfinite()]
        batch = mine[0] if mine else self._batches[-1]
        found = torch.tensor(float(bool(mine)), device=module.device)
        processes = trainer.strategy.all_gather(found).reshape(-1).tolist()
        guilty = processes.index(max(processes))
        # the steps counted so far include this one where its weights are what is wrong
        step = trainer.global_step + self._stepping
        loss = batch.loss.cpu() * trainer.accumulate_grad_batches
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            loss = loss / scaler.get_scale()
        path = Path(trainer.default_root_dir) / ANOMALY_FILE
        line = (
            f"optimizer step {step} is not finite (epoch {trainer.current_epoch}, batch "
            f"{batch.number}): the loss is {loss.item():g}, {what}; its images are "
            f"train:{','.join(map(str, batch.indices.tolist()))}; lower optimizer.lr, or look: "
            f"debug=replay replay={path}"
        )
        line = trainer.strategy.broadcast(line, src=guilty)
        if trainer.global_rank == guilty:
            content = {
                "message": line,
                "config": next((c.config for c in attached(trainer, SaveConfig)), None),
                "precision": trainer.precision,
                "step": step,
                "epoch": trainer.current_epoch,
                "batch": batch.number,
                "indices": batch.indices,
                "loss": loss,
                "state_dict": {k: v.cpu() for k, v in module.state_dict().items()},
                **_draw_again(trainer, module, batch),
            }
            with replacing(path) as part:
                torch.save(content, part)
        return line


def largest_gradient(parameters: Iterable[tuple[str, nn.Parameter]]) -> tuple[str, float, int]:
    """The name and absolute value of the largest element, and how many parameters are not finite.

    A value that is not a number is larger than any.
    """
    found = [(name, p.grad.abs().amax().item()) for name, p in parameters if p.grad is not None]
    name, value = max(found, key=lambda pair: (pair[1] != pair[1], pair[1]))
    return name, value, sum(not torch.tensor(v).isfinite() for _, v in found)


def _scaler_can_help(trainer: L.Trainer) -> bool:
    """Whether a gradient scaler will skip this step and may scale the next one less."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and scaler.get_scale() >= 1


def _random_states(device: torch.device) -> list[Tensor]:
    """Of the CPU's stream, and of the device's own if it has one."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def _set_random_states(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])


def _draw_again(
    trainer: L.Trainer, module: DiffusionModule, batch: _Batch
) -> dict[str, Tensor | None]:
    """What the batch's loss was computed from, and the CPU's random state after it was drawn.

    The draws themselves, because what a GPU drew no CPU draws again. The streams are left alone.
    """
    now = _random_states(module.device)
    _set_random_states(module.device, batch.random_states)
    with trainer.precision_plugin.train_step_context():  # which the type of the draws depends on
        x0, noise, t, labels = module.draw(*batch.tensors)
    drawn = {"x0": x0, "noise": noise, "t": t, "labels": labels}
    drawn["random_state"] = torch.get_rng_state()
    _set_random_states(module.device, now)
    return {name: None if value is None else value.cpu() for name, value in drawn.items()}

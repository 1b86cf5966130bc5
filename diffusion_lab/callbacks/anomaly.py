"""Write anomaly.pt, which holds everything needed to repeat a non-finite optimizer step."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from diffusion_lab.callbacks.checkpoints.save_config import SaveConfig
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.system.atomic import replacing
from diffusion_lab.system.lightning import callbacks_of

ANOMALY_FILE = "anomaly.pt"
_UNKNOWN = torch.tensor(0.0)  # the loss, until the backward pass begins


@dataclass
class Batch:
    """A training batch with the random states from which its noise and times are sampled."""

    number: int
    tensors: tuple[Tensor, ...]
    indices: Tensor
    random_states: list[Tensor]
    loss: Tensor = _UNKNOWN

    @classmethod
    def before_sampling(
        cls, trainer: L.Trainer, module: L.LightningModule, tensors: tuple[Tensor, ...], number: int
    ) -> "Batch":
        """Record batch `number` of the epoch, and the random states before noise is sampled."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageDataModule)
        return cls(number, tensors, data.batch_indices(), random_states(module.device))


@dataclass
class Step:
    """An optimizer step (counted from 1), its epoch and the accumulated batches."""

    number: int
    epoch: int
    batches: list[Batch]
    scale: float
    """Factor by which the gradient scaler has multiplied the losses; 1 without a scaler."""


def write_anomaly(
    trainer: L.Trainer,
    module: L.LightningModule,
    step: Step,
    what: str,
    weights: Mapping[str, Tensor],
) -> str:
    """Write anomaly.pt for a non-finite step; return the one-line error message.

    The file holds `weights` and one batch: the first accumulated batch with a non-finite loss, from
    the first process that has such a batch. If all losses are finite, it is the last batch of the
    first process. `what` is inserted in the message to describe the gradients or weights. All
    processes return the same message.
    """
    assert isinstance(module, DiffusionModule)
    not_finite = [batch for batch in step.batches if not batch.loss.isfinite()]
    batch = not_finite[0] if not_finite else step.batches[-1]
    has_any = torch.tensor(float(bool(not_finite)), device=module.device)
    flags = trainer.strategy.all_gather(has_any).reshape(-1).tolist()
    source = flags.index(max(flags))
    loss = batch.loss.cpu() * trainer.accumulate_grad_batches / step.scale
    path = Path(trainer.default_root_dir) / ANOMALY_FILE
    line = (
        f"optimizer step {step.number} is not finite (epoch {step.epoch}, batch "
        f"{batch.number}): the loss is {loss.item():g}, {what}; "
        f"the images {'' if not_finite or len(step.batches) == 1 else 'of its last batch '}are "
        f"train:{','.join(map(str, batch.indices.tolist()))}; lower optimizer.lr=, or inspect "
        f"the step with debug=replay replay={path}"
    )
    line = trainer.strategy.broadcast(line, src=source)
    if trainer.global_rank == source:
        content = {
            "message": line,
            "config": next((c.config for c in callbacks_of(trainer, SaveConfig)), None),
            "precision": trainer.precision,
            "step": step.number,
            "epoch": step.epoch,
            "batch": batch.number,
            "indices": batch.indices,
            "loss": loss,
            "state_dict": {k: v.cpu() for k, v in {**module.state_dict(), **weights}.items()},
            **_sample_again(trainer, module, batch),
        }
        with replacing(path) as part:
            torch.save(content, part)
    return line


def random_states(device: torch.device) -> list[Tensor]:
    """Return the random state of the CPU, and of the device if it has its own generator."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def set_random_states(device: torch.device, states: list[Tensor]) -> None:
    """Restore the random states that `random_states` returned."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])


def _sample_again(
    trainer: L.Trainer, module: DiffusionModule, batch: Batch
) -> dict[str, Tensor | None]:
    """Sample noise and times of the batch again; return the arguments of `losses` and random_state.

    The entry `random_state` is the CPU's state after sampling. The tensors are stored, because a
    CPU cannot reproduce a GPU's random numbers. The current random states are left unchanged.
    """
    now = random_states(module.device)
    set_random_states(module.device, batch.random_states)
    with trainer.precision_plugin.train_step_context():  # it decides the dtype of the samples
        values = module.draw(*batch.tensors)
    inputs = dict(zip(("x0", "noise", "t", "labels", "augmentation"), values, strict=True))
    inputs["random_state"] = torch.get_rng_state()
    set_random_states(module.device, now)
    return {name: None if value is None else value.cpu() for name, value in inputs.items()}

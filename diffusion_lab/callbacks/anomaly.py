"""anomaly.pt: an optimizer step in which numbers went bad, kept to be run again."""

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
    """A batch, and what is needed to draw for it again."""

    number: int
    tensors: tuple[Tensor, ...]
    indices: Tensor
    random_states: list[Tensor]
    loss: Tensor = _UNKNOWN

    @classmethod
    def before_draws(
        cls, trainer: L.Trainer, module: L.LightningModule, tensors: tuple[Tensor, ...], number: int
    ) -> "Batch":
        """The batch of that number in its epoch, for which nothing has been drawn yet."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageDataModule)
        return cls(number, tensors, data.batch_indices(), random_states(module.device))


@dataclass
class Step:
    """An optimizer step, counted from 1, its epoch, and the batches whose gradients it takes."""

    number: int
    epoch: int
    batches: list[Batch]
    scale: float
    """What a gradient scaler has multiplied the losses by."""


def write_anomaly(
    trainer: L.Trainer,
    module: L.LightningModule,
    step: Step,
    what: str,
    weights: Mapping[str, Tensor],
) -> str:
    """Write anomaly.pt with these weights and say in one line what was wrong.

    Of several accumulated batches the first whose loss is not finite is written, of several
    processes likewise; all of them return the same line.
    """
    assert isinstance(module, DiffusionModule)
    mine = [batch for batch in step.batches if not batch.loss.isfinite()]
    batch = mine[0] if mine else step.batches[-1]
    found = torch.tensor(float(bool(mine)), device=module.device)
    processes = trainer.strategy.all_gather(found).reshape(-1).tolist()
    guilty = processes.index(max(processes))
    loss = batch.loss.cpu() * trainer.accumulate_grad_batches / step.scale
    path = Path(trainer.default_root_dir) / ANOMALY_FILE
    line = (
        f"optimizer step {step.number} is not finite (epoch {step.epoch}, batch "
        f"{batch.number}): the loss is {loss.item():g}, {what}; "
        f"{'its' if mine or len(step.batches) == 1 else 'the last of its'} images are "
        f"train:{','.join(map(str, batch.indices.tolist()))}; lower optimizer.lr, or look: "
        f"debug=replay replay={path}"
    )
    line = trainer.strategy.broadcast(line, src=guilty)
    if trainer.global_rank == guilty:
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
            **_draw_again(trainer, module, batch),
        }
        with replacing(path) as part:
            torch.save(content, part)
    return line


def random_states(device: torch.device) -> list[Tensor]:
    """Return the states of the CPU's stream, and of the device's own if it has one."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def set_random_states(device: torch.device, states: list[Tensor]) -> None:
    """Set them to what `random_states` returned."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])


def _draw_again(
    trainer: L.Trainer, module: DiffusionModule, batch: Batch
) -> dict[str, Tensor | None]:
    """What the batch's loss was computed from, and the CPU's random state after it was drawn.

    The draws themselves, because what a GPU drew no CPU draws again. The streams are left alone.
    """
    now = random_states(module.device)
    set_random_states(module.device, batch.random_states)
    with trainer.precision_plugin.train_step_context():  # which the type of the draws depends on
        x0, noise, t, labels = module.draw(*batch.tensors)
    drawn = {"x0": x0, "noise": noise, "t": t, "labels": labels}
    drawn["random_state"] = torch.get_rng_state()
    set_random_states(module.device, now)
    return {name: None if value is None else value.cpu() for name, value in drawn.items()}

"""Save snapshots of power-function EMAs, to reconstruct any EMA width after training.

Post-hoc EMA of Karras et al. 2024 (arXiv 2312.02696, section 3), which no library implements.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from diffusion_lab.callbacks.finite_loss import FiniteLoss
from diffusion_lab.errors import UserError
from diffusion_lab.optim.power_function_ema import SNAPSHOTS, check_width, decay_of, gamma_of
from diffusion_lab.system.atomic import replacing
from diffusion_lab.system.lightning import callbacks_of


class PostHocEMA(L.Callback):
    """Average the weights by power functions of several widths (arXiv 2312.02696, section 3).

    A width is the standard deviation of the averaging profile as a fraction of the training so far.
    After optimizer step n, average = d average + (1 - d) weights, with d from
    `power_function_ema.decay_of`. The averages are kept in float32 in addition to `EMA`, which
    validation still uses. A step that `FiniteLoss` skips counts as a step with unchanged weights.

    Every `every_n_steps` steps and at the end a snapshot is stored in float16: {"step": n,
    "averages": width -> name -> tensor}. With two widths it takes four bytes per parameter. The
    option `weights=posthoc:0.1` of scripts/sample.py combines the snapshots to width 0.1.
    """

    def __init__(self, widths: Sequence[float] = (0.05, 0.1), every_n_steps: int = 200) -> None:
        setting = f"callbacks.post_hoc_ema.widths={list(widths)}"
        for width in widths:
            check_width(width, setting)
        if len(set(widths)) < max(len(widths), 2):
            raise UserError(
                f"{setting}: expected at least two different widths, for example [0.05,0.1]"
            )
        if every_n_steps < 1:
            raise UserError(
                f"callbacks.post_hoc_ema.every_n_steps={every_n_steps}: expected at least 1"
            )
        self.gammas = {float(width): gamma_of(width) for width in widths}
        self.every_n_steps = every_n_steps
        self.steps = 0
        self.averages: dict[float, dict[str, Tensor]] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the averages from the initial weights, or from the averages in the checkpoint.

        Delete the snapshots of steps after the checkpoint, because the resumed run repeats them.
        """
        self.averages = {
            width: {
                name: self.averages.get(width, {})
                .get(name, p.detach())
                .to(p.device, torch.float32, copy=True)
                for name, p in pl_module.named_parameters()
            }
            for width in self.gammas
        }
        if trainer.is_global_zero:
            for path in _folder(trainer).glob("step_*.pt"):
                if int(path.stem.partition("_")[2]) > self.steps:  # newer than the checkpoint
                    path.unlink()

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Update the averages once per optimizer step; store them every `every_n_steps` steps."""
        if trainer.global_step == self.steps:  # in the middle of gradient accumulation
            return
        self.steps = trainer.global_step
        weights = [p.detach().float() for p in pl_module.parameters()]
        for width, average in self.averages.items():
            decay = decay_of(self.gammas[width], self.steps)
            torch._foreach_lerp_(list(average.values()), weights, 1 - decay)
        if self.steps % self.every_n_steps == 0:
            for guard in callbacks_of(trainer, FiniteLoss):
                guard.settle(trainer, pl_module)
            self._store(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Store a snapshot of the last step, unless one is stored already."""
        if self.steps % self.every_n_steps:
            self._store(trainer)

    @rank_zero_only
    def _store(self, trainer: L.Trainer) -> None:
        content = {
            "step": self.steps,
            "averages": {
                width: {name: _to_half(value) for name, value in average.items()}
                for width, average in self.averages.items()
            },
        }
        with replacing(_folder(trainer) / f"step_{self.steps:08d}.pt") as part:
            torch.save(content, part)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages in float32, for the checkpoint."""
        return {"steps": self.steps, "averages": self.averages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the averages of a checkpoint."""
        self.steps, self.averages = state_dict["steps"], state_dict["averages"]


def _folder(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir) / SNAPSHOTS


def _to_half(value: Tensor) -> Tensor:
    """Return a copy on the CPU in float16 (11 significant bits), or in float32 on overflow."""
    half = value.half()
    return (half if half.isfinite().all() else value).cpu()

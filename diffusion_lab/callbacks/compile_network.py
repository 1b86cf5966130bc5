"""Compile the trained network with torch.compile; log the compile time and the speedup."""

import logging
import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffusion_lab.callbacks.anomaly import random_states, set_random_states
from diffusion_lab.errors import UserError, unknown_name
from diffusion_lab.modules import DiffusionModule

log = logging.getLogger(__name__)

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_TIMED = 5  # batches, after as many for warm-up: the first one compiles, and CUDA graphs need three


class CompiledNetwork(L.Callback):
    """Compile the network in place for training, so that no parameter name in a checkpoint changes.

    The network is compiled once, for full training batches (dynamic=False gives the fastest
    kernels). The smaller last batch of an epoch, validation and sampling run uncompiled, because
    compiling for each of these takes longer than it saves, and because samples made in training
    should equal the samples of `sample.py`. Before the first step the loss and its gradients are
    timed without and with the compiler, and the compile time and the speedup are logged. This
    changes neither weights nor gradients nor random states. Raises UserError if no compiler works.

    Args:
        mode: the mode of torch.compile; reduce-overhead and max-autotune use CUDA graphs.

    """

    def __init__(self, mode: str = "default") -> None:
        if mode not in MODES:
            raise UserError(unknown_name("trainer.compile_mode", mode, MODES))
        self.mode = mode
        self._batch_size = 0
        self._measured = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Test the compiler on a small function, then mark the network for compilation."""
        assert isinstance(pl_module, DiffusionModule)
        try:
            torch.compile(torch.square)(torch.ones(8, device=pl_module.device))
        except Exception as error:  # whatever the compiler, or the lack of one, raises
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"trainer.compile=true: no compiler works on {pl_module.device} ({reason}): "
                "install one (g++ for a CPU, triton for a GPU), or type trainer.compile=false"
            ) from error
        pl_module.network.compile(dynamic=False, mode=self.mode)
        torch.compiler.set_stance("force_eager")  # until the first batch

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: tuple[Tensor, ...],
        batch_idx: int,
    ) -> None:
        """Use the compiled network for a full batch; measure the speedup at the first one."""
        assert isinstance(pl_module, DiffusionModule)
        size = len(batch[0])
        # a resumed run may begin with the smaller last batch of an epoch
        self._batch_size = max(size, self._batch_size)
        if size != self._batch_size:
            return
        if not self._measured:
            self._measured = True
            self._measure(trainer, pl_module, batch)
        torch.compiler.set_stance("default")
        torch.compiler.cudagraph_mark_step_begin()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Use the uncompiled network until the next training batch."""
        torch.compiler.set_stance("force_eager")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore torch.compile's default for the rest of the process."""
        torch.compiler.set_stance("default")

    def _measure(
        self, trainer: L.Trainer, module: DiffusionModule, batch: tuple[Tensor, ...]
    ) -> None:
        streams = random_states(module.device)
        buffers = {name: value.clone() for name, value in module.named_buffers()}
        plain = self._seconds(trainer, module, batch)
        began = time.perf_counter()
        torch.compiler.set_stance("default")
        compiled = self._seconds(trainer, module, batch)
        whole = time.perf_counter() - began
        set_random_states(module.device, streams)
        for name, value in module.named_buffers():
            value.copy_(buffers[name])
        if trainer.is_global_zero:
            log.info(
                "compiled in %.1f s (mode %s): forward and backward pass of a batch take %.2f ms, "
                "%.2f ms uncompiled, a speedup of %.2f",
                whole,
                self.mode,
                1000 * compiled,
                1000 * plain,
                plain / compiled,
            )

    @staticmethod
    def _seconds(trainer: L.Trainer, module: DiffusionModule, batch: tuple[Tensor, ...]) -> float:
        """Return the mean seconds to compute the loss and gradients of a batch, after a warm-up."""
        weights = [p for p in module.parameters() if p.requires_grad]
        wait = torch.cuda.synchronize if module.device.type == "cuda" else lambda: None
        began = 0.0
        for i in range(2 * _TIMED):
            if i == _TIMED:
                wait()
                began = time.perf_counter()
            torch.compiler.cudagraph_mark_step_begin()
            with trainer.precision_plugin.train_step_context():
                loss = module.losses(*module.draw(*batch))[1].mean()
            torch.autograd.grad(loss, weights, allow_unused=True)
        wait()
        return (time.perf_counter() - began) / _TIMED

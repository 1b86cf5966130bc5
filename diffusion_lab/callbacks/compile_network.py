"""torch.compile of the network that is trained, what it costs and what it gains."""

import logging
import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffusion_lab.callbacks.anomaly import random_states, set_random_states
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule

log = logging.getLogger(__name__)

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_TIMED = 5  # batches, after as many that are not: a first one compiles, CUDA graphs take three


class CompiledNetwork(L.Callback):
    """Compiles the network in place, so that no name in a checkpoint changes.

    Once, for whole training batches (dynamic=False, which gives the fastest kernels). Everything
    else runs as it is written: the smaller batch that ends an epoch, validation and pictures. Each
    would be a compilation of its own, for more time than it saves, and what a run draws stays what
    `sample.py` draws from it. Before the first step the loss and its gradients are computed a few
    times without and with the compiler, and the log says what it took and how much faster it is;
    weights, gradients and random streams are as they were. Raises UserError where nothing can be
    compiled.

    Args:
        mode: of torch.compile; reduce-overhead and max-autotune replay CUDA graphs on a GPU.

    """

    def __init__(self, mode: str = "default") -> None:
        if mode not in MODES:
            raise UserError(f"trainer.compile_mode={mode}: expected one of {', '.join(MODES)}")
        self.mode = mode
        self._batch_size = 0
        self._measured = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Try the compiler on something small, then leave the network to it."""
        assert isinstance(pl_module, DiffusionModule)
        try:
            torch.compile(torch.square)(torch.ones(8, device=pl_module.device))
        except Exception as error:  # whatever the compiler, or the lack of one, raises
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"trainer.compile=true finds no compiler that works on {pl_module.device} "
                f"({reason}): install one (g++ for a CPU, triton for a GPU), or leave it out"
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
        """Let a whole batch be compiled."""
        assert isinstance(pl_module, DiffusionModule)
        size = len(batch[0])
        # a run may be taken up at a smaller one
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
        """Compile nothing until the next one."""
        torch.compiler.set_stance("force_eager")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Whatever else this process compiles is no business of a run."""
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
                "compiled in %.1f s (mode %s): a batch forward and backward takes %.2f ms in place "
                "of %.2f, %.2f times as fast",
                whole,
                self.mode,
                1000 * compiled,
                1000 * plain,
                plain / compiled,
            )

    @staticmethod
    def _seconds(trainer: L.Trainer, module: DiffusionModule, batch: tuple[Tensor, ...]) -> float:
        """Seconds of one loss and its gradients, the mean of a few after as many for warming up."""
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

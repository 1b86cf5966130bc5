"""torch.compile of the network that is trained, and what it costs."""

import logging
import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule

log = logging.getLogger(__name__)


class CompiledNetwork(L.Callback):
    """Compiles the network in place, so that no name in a checkpoint changes, and says how long.

    Once, for whole training batches (dynamic=False, which gives the fastest kernels). Everything
    else runs as it is written: the smaller batch that ends an epoch, validation and pictures. Each
    would be a compilation of its own, for more time than it saves, and what a run draws stays what
    `sample.py` draws from it. Raises UserError where nothing can be compiled.
    """

    def __init__(self) -> None:
        self._batch_size = 0
        self._began = 0.0
        self._compiled = False  # a step is over, and the compilation with it

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Try the compiler on something small, then leave the network to it."""
        assert isinstance(pl_module, DiffusionModule)
        self._began = time.perf_counter()
        try:
            torch.compile(torch.square)(torch.ones(8, device=pl_module.device))
        except Exception as error:  # whatever the compiler, or the lack of one, raises
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"trainer.compile=true finds no compiler that works on {pl_module.device} "
                f"({reason}): install one (g++ for a CPU, triton for a GPU), or leave it out"
            ) from error
        pl_module.network.compile(dynamic=False)
        torch.compiler.set_stance("force_eager")  # until the first batch

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
    ) -> None:
        """Let a whole batch be compiled."""
        size = len(batch[0])
        # a run may be taken up at a smaller one
        self._batch_size = max(size, self._batch_size)
        if size == self._batch_size:
            torch.compiler.set_stance("default")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Compile nothing until the next one."""
        torch.compiler.set_stance("force_eager")
        if not self._compiled:
            self._compiled = True
            if trainer.is_global_zero:
                seconds = time.perf_counter() - self._began
                log.info("compiled in %.1f s, the first step included", seconds)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Whatever else this process compiles is no business of a run."""
        torch.compiler.set_stance("default")

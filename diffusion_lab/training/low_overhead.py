"""What Lightning does around every step, with what nobody asked for left out."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.profilers import PassThroughProfiler

_EVERY_STEP = (
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "on_train_batch_end",
)


def leave_out_idle_hooks(callbacks: Iterable[L.Callback]) -> None:
    """Take from the callbacks the hooks of every step that they have only inherited.

    Lightning passes over what is not callable. The empty hooks of fifteen callbacks are nearly a
    hundred calls a step, as long together as all that the others do.
    """
    for callback in callbacks:
        for hook in _EVERY_STEP:
            if getattr(type(callback), hook) is getattr(L.Callback, hook):
                setattr(callback, hook, None)
        if isinstance(callback, ModelCheckpoint) and _saves_at_epochs_only(callback):
            callback.on_train_batch_end = None  # type: ignore[assignment,method-assign]


def _saves_at_epochs_only(callback: ModelCheckpoint) -> bool:
    return callback._every_n_train_steps < 1 and callback._train_time_interval is None


def look_for_no_gpu_twice() -> None:
    """Let torch answer at once where there is none.

    Adam asks in every step, and Lightning has torch ask the driver's library each time, which is
    opened for that: a tenth of a millisecond.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


class NoProfiler(PassThroughProfiler):
    """Gives the same idle context around each of the hundred or so calls of a step.

    To make one from a generator, as Lightning's own does, takes longer than most of those calls.
    """

    _idle = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """One context for all."""
        return self._idle

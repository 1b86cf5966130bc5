"""Access to private or undeclared parts of Lightning, each behind a public function.

No other file uses a private name of Lightning; tests fail when Lightning renames one.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

C = TypeVar("C", bound=L.Callback)


def callbacks_of(trainer: L.Trainer, kind: type[C]) -> list[C]:
    """Return the trainer's callbacks of the class `kind`, in the trainer's order."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, kind)]


def accumulates(trainer: L.Trainer) -> bool:
    """Return True if the last batch only accumulated gradients, without an optimizer step."""
    return trainer.fit_loop._should_accumulate()


def will_stop(trainer: L.Trainer) -> bool:
    """Return True if training ends after this step, given max_steps, min_epochs and min_steps."""
    ended = 0 < trainer.max_steps <= trainer.global_step
    return ended or (trainer.should_stop and trainer.fit_loop._can_stop_early)


def validation_is_due(trainer: L.Trainer) -> bool:
    """Return True if validation follows the current training batch."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def logs_step(trainer: L.Trainer) -> bool:
    """Return True if Lightning sends metrics to the loggers at the current step."""
    return trainer._logger_connector.should_update_logs


def metrics_to_log(trainer: L.Trainer) -> dict[str, Any]:
    """Return the metrics that Lightning would log at the current step."""
    return dict(trainer._logger_connector.metrics["log"])


def logged_step(trainer: L.Trainer) -> int:
    """Return the step number, from 0, with which Lightning logs the current metrics.

    Lightning increases the number after validation, not after the optimizer step.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def move_logged_step(trainer: L.Trainer, by: int) -> None:
    """Add `by` to the step number with which Lightning logs metrics."""
    trainer.fit_loop.epoch_loop._batches_that_stepped += by


def gathered_batches(trainer: L.Trainer) -> int:
    """Return the number of batches whose gradients the current optimizer step accumulates.

    The last step of an epoch may have fewer batches than the others, because Lightning takes a step
    at the last batch in any case.
    """
    size = trainer.accumulate_grad_batches
    first = trainer.fit_loop.batch_idx // size * size
    return int(min(size, trainer.num_training_batches - first))


def was_cut(loops: Mapping[str, Any]) -> bool:
    """Return True if a limit such as max_steps ended an epoch before its last batch.

    `loops` is the state of Lightning's fit loop in a checkpoint.
    """
    epoch = loops["epoch_progress"]["current"]
    return (
        epoch["processed"] == epoch["ready"] > epoch["completed"]
        and not (loops["epoch_loop.batch_progress"]["is_last_batch"])
    )


def finished_epochs(loops: Mapping[str, Any]) -> int:
    """Return the number of finished epochs; an epoch that a limit cut short is not finished.

    `loops` is the state of Lightning's fit loop in a checkpoint.
    """
    processed: int = loops["epoch_progress"]["current"]["processed"]
    return processed - was_cut(loops)


def settle(loops: dict[str, Any]) -> None:
    """Correct, in place, the epoch counts of a checkpoint that was saved at the end of an epoch.

    When Lightning saves such a checkpoint, it has not yet counted the epoch as completed. A
    resumed training with `max_steps` would then run the end of the epoch a second time. After the
    correction a whole epoch counts as completed, and an epoch cut short by a limit as unfinished.
    `loops` is the state of Lightning's fit loop.
    """
    cut = was_cut(loops)
    for count in loops["epoch_progress"].values():
        if cut:
            count["processed"] = count["completed"]
        elif count["processed"] == count["ready"]:
            count["completed"] = count["processed"]


class CheckpointHooks(ModelCheckpoint):
    """ModelCheckpoint with public methods by which subclasses choose when a save takes place."""

    def is_stale(self, trainer: L.Trainer) -> bool:
        """Return True to skip a save because the metric was not measured since the last save."""
        return False

    def saves_at_epoch_end(self) -> bool:
        """Return True to save at the end of each training epoch instead of after validation."""
        return False

    def _should_skip_saving_checkpoint(self, trainer: L.Trainer) -> bool:
        return self.is_stale(trainer) or super()._should_skip_saving_checkpoint(trainer)

    def _should_save_on_train_epoch_end(self, trainer: L.Trainer) -> bool:
        return self.saves_at_epoch_end() or super()._should_save_on_train_epoch_end(trainer)


class EarlyStoppingHooks(EarlyStopping):
    """EarlyStopping with public methods that subclasses override to skip or to time checks."""

    def is_stale(self, trainer: L.Trainer) -> bool:
        """Return True to skip a check because the metric was not measured since the last check."""
        return False

    def checks_at_epoch_end(self) -> bool:
        """Return True to check for an early stop after each epoch instead of after validation."""
        return False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let Lightning check at the end of epochs if `checks_at_epoch_end` returns True."""
        if self.checks_at_epoch_end():
            self._check_on_train_epoch_end = True
        super().setup(trainer, pl_module, stage)

    def _should_skip_check(self, trainer: L.Trainer) -> bool:
        return self.is_stale(trainer) or super()._should_skip_check(trainer)


T = TypeVar("T")


def my_batches(trainer: L.Trainer, num_images: int, batch_size: int) -> list[tuple[int, int]]:
    """Split images into batches and return (first image, count) of each batch of this process.

    Rank r of n processes gets batches r, r + n, r + 2n, ...
    """
    batches = [
        (first, min(batch_size, num_images - first)) for first in range(0, num_images, batch_size)
    ]
    return batches[trainer.global_rank :: trainer.world_size]


def run_on_all_ranks(trainer: L.Trainer, work: Callable[[], T]) -> list[T]:
    """Run `work` in every process and return all results, in the order of the ranks.

    Every process must call this function. If `work` fails in one process, all processes raise an
    exception, so that none waits forever. The results must be picklable.
    """
    if trainer.world_size == 1:
        return [work()]
    result, error = None, None
    try:
        result = work()
    except Exception as raised:
        error = raised
    reason = None if error is None else f"{type(error).__name__}: {error}"
    outcomes: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(outcomes, (result, reason))
    if error is not None:
        raise error
    for rank, (_, reason) in enumerate(outcomes):
        if reason is not None:
            raise RuntimeError(f"the process of rank {rank} failed: {reason}")
    return [result for result, _ in outcomes]

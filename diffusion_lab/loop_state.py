"""State of Lightning's training loop that its public API does not show.

Every private name of Lightning's loops that decides about stopping and resuming stands here, each
in a function of its own; tests/test_loop_state.py fails where Lightning renames one.
"""

from collections.abc import Mapping
from typing import Any

import lightning as L


def accumulates(trainer: L.Trainer) -> bool:
    """Return True if the gradient of the last batch waits for those of the next ones."""
    return trainer.fit_loop._should_accumulate()


def will_stop(trainer: L.Trainer) -> bool:
    """Return True if training ends with this step; should_stop waits for min_epochs, min_steps."""
    ended = 0 < trainer.max_steps <= trainer.global_step
    return ended or (trainer.should_stop and trainer.fit_loop._can_stop_early)


def validation_is_due(trainer: L.Trainer) -> bool:
    """Return True if the loop validates after the batch that it has just trained on."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def logs_step(trainer: L.Trainer) -> bool:
    """Return True if Lightning logs the current step."""
    return trainer._logger_connector.should_update_logs


def metrics_to_log(trainer: L.Trainer) -> dict[str, Any]:
    """Return the metrics that Lightning would log of the current step."""
    return dict(trainer._logger_connector.metrics["log"])


def logged_step(trainer: L.Trainer) -> int:
    """The number under which Lightning logs a step: from 0, and counted after the validation."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def move_logged_step(trainer: L.Trainer, by: int) -> None:
    """Correct it."""
    trainer.fit_loop.epoch_loop._batches_that_stepped += by


def gathered_batches(trainer: L.Trainer) -> int:
    """Return the number of batches in the accumulation group of the current one.

    The last group of an epoch may be smaller: Lightning takes its step at the epoch's last batch.
    """
    size = trainer.accumulate_grad_batches
    first = trainer.fit_loop.batch_idx // size * size
    return int(min(size, trainer.num_training_batches - first))


def was_cut(loops: Mapping[str, Any]) -> bool:
    """Return True if a limit ended the checkpoint's epoch before its last batch."""
    epoch = loops["epoch_progress"]["current"]
    return (
        epoch["processed"] == epoch["ready"] > epoch["completed"]
        and not (loops["epoch_loop.batch_progress"]["is_last_batch"])
    )


def finished_epochs(loops: Mapping[str, Any]) -> int:
    """Count the epochs that a checkpoint has finished; one that a limit cut goes on."""
    processed: int = loops["epoch_progress"]["current"]["processed"]
    return processed - was_cut(loops)


def settle(loops: dict[str, Any]) -> None:
    """Let a checkpoint of an epoch's end say that this epoch is over, or, if it was cut, goes on.

    It is saved in a hook of the epoch's end. There Lightning has not counted the epoch as completed
    yet, and under `max_steps` goes through its end a second time.
    """
    cut = was_cut(loops)
    for count in loops["epoch_progress"].values():
        if cut:
            count["processed"] = count["completed"]
        elif count["processed"] == count["ready"]:
            count["completed"] = count["processed"]

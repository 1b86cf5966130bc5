"""Work that the processes of a run share."""

from collections.abc import Callable
from typing import Any, TypeVar

import lightning as L
import torch

T = TypeVar("T")


def my_batches(trainer: L.Trainer, num_images: int, batch_size: int) -> list[tuple[int, int]]:
    """(first image, number) of the batches that are this process's when all take turns."""
    batches = [
        (first, min(batch_size, num_images - first)) for first in range(0, num_images, batch_size)
    ]
    return batches[trainer.global_rank :: trainer.world_size]


def all_do(trainer: L.Trainer, work: Callable[[], T]) -> list[T]:
    """Return what `work` gave in every process, in their order; to be called in all of them.

    Where it fails in one, all raise: none is left waiting for the others. What it gives must be
    picklable.
    """
    if trainer.world_size == 1:
        return [work()]
    given, error = None, None
    try:
        given = work()
    except Exception as raised:
        error = raised
    reason = None if error is None else f"{type(error).__name__}: {error}"
    outcomes: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(outcomes, (given, reason))
    if error is not None:
        raise error
    for rank, (_, reason) in enumerate(outcomes):
        if reason is not None:
            raise RuntimeError(f"process {rank} failed: {reason}")
    return [given for given, _ in outcomes]

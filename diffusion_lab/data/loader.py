"""In-memory data loader with resumable shuffling."""

import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.placement import select
from diffusion_lab.errors import UserError

log = logging.getLogger(__name__)


class InMemoryLoader:
    """Loader of batches (images (B, C, H, W), labels (B,) int64) from tensors in memory.

    With `noise`, a batch has a third tensor: the noise (B, C, H, W) its images were generated from.

    With shuffling, the batches form an endless stream of epochs. The order of an epoch depends on
    (seed, epoch) alone; the global random state is neither read nor changed. An iteration yields
    the next ``len(self)`` batches of the stream, normally one epoch. The next iteration continues
    where an interrupted iteration stopped, in another process too with ``state_dict``.
    Without shuffling, every iteration starts at the first image.

    In distributed training each process takes every world_size-th image of the common order. All
    processes get the same number of batches: if the images do not divide evenly, the order is
    extended by its first images, or cut off if `drop_last` is set.

    Args:
        images: (N, C, H, W), uint8 or floats, on the device of the batches.
        labels: int64 (N,), on the same device.
        batch_size: images in a batch of one process; the last batch may be smaller.
        shuffle: True for a new order every epoch, False for the order of the tensors.
        drop_last: leave out a last batch that is not full.
        seed: seed of the order, at least 0.
        rank: index of this process, from 0.
        world_size: number of processes.
        noise: float32 (N, C, H, W), on the same device.
        pin_memory: put batches into page-locked memory, for asynchronous copies to a GPU.

    Raises:
        UserError: if batch_size or seed is out of range.

    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        noise: Tensor | None = None,
        pin_memory: bool = False,
    ) -> None:
        check_whole_number("batch_size", batch_size, least=1)
        check_whole_number("seed", seed, least=0)
        self.images, self.labels = images, labels
        self._tensors = (images, labels) if noise is None else (images, labels, noise)
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.pin_memory = pin_memory

        divide = math.floor if drop_last else math.ceil
        self._num_images = divide(len(images) / world_size)  # of this process
        self._num_batches = divide(self._num_images / batch_size)

        self.epoch, self.batch = 0, 0  # of the next batch
        self.last_indices: Tensor | None = None  # (B,) int64 on the CPU, of the last batch

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield the next ``len(self)`` batches."""
        # A generator: no code runs before the first batch is requested. Lightning calls iter()
        # more often than it iterates, and loads a state after the call.
        if not self.shuffle:
            self.set_epoch(0)
        epoch: int | None = None
        for _ in range(len(self)):
            if epoch != self.epoch:
                epoch, order = self.epoch, self.order(self.epoch)
                order_there = order.to(self.images.device)  # one copy per epoch, not one per batch
            part = slice(self.batch * self.batch_size, (self.batch + 1) * self.batch_size)
            # Count before the yield: a checkpoint saved after this batch includes it.
            self._go_to(self.epoch, self.batch + 1)
            self.last_indices = order[part]
            indices = order_there[part]
            yield tuple(select(tensor, indices, self.pin_memory) for tensor in self._tensors)

    def order(self, epoch: int) -> Tensor:
        """Return the indices (int64) of the images that this process yields in an epoch."""
        if self.shuffle:
            # SeedSequence mixes the two numbers, so that (0, 1) and (1, 0) are unrelated.
            (mixed,) = np.random.SeedSequence([self.seed, epoch]).generate_state(1)
            generator = torch.Generator().manual_seed(int(mixed))
            order = torch.randperm(len(self.images), generator=generator)
        else:
            order = torch.arange(len(self.images))
        total = self._num_images * self.world_size
        if 0 < len(order) < total:
            order = order.repeat(math.ceil(total / len(order)))
        return order[self.rank : total : self.world_size]

    def set_epoch(self, epoch: int) -> None:
        """Continue with the first batch of epoch number `epoch`."""
        self._go_to(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the next batch and the settings that determine the order."""
        return {"epoch": self.epoch, "batch": self.batch, "order": self._order_settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the position that `state_dict` returned.

        Logs a warning if the position is inside an epoch and settings of the batches have changed.
        """
        self._go_to(state_dict["epoch"], state_dict["batch"])
        saved, now = state_dict["order"], self._order_settings()
        if saved != now and state_dict["batch"] > 0:
            changes = [f"{key} {saved[key]} -> {now[key]}" for key in now if saved[key] != now[key]]
            log.warning(
                "resuming in the middle of an epoch with different batches (%s): "
                "some images of this epoch may be repeated or skipped",
                ", ".join(changes),
            )

    def _go_to(self, epoch: int, batch: int) -> None:
        at_end = batch >= len(self)
        self.epoch, self.batch = (epoch + 1, 0) if at_end else (epoch, batch)

    def _order_settings(self) -> dict[str, int | bool]:
        return {
            "num_images": len(self.images),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "seed": self.seed,
            "world_size": self.world_size,
        }


def check_whole_number(setting: str, value: object, least: int) -> None:
    """Raise UserError unless the value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(
            f"data.{setting}={value}: expected a whole number, at least {least}, "
            f"for example data.{setting}={max(least, 1)}"
        )

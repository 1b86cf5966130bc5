"""Batches out of one tensor in memory, in an order that a resumed run can take up again."""

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
    """Yields (images (B, C, H, W) uint8, labels (B,) int64); a batch is one index operation.

    With `noise` a batch has the noise that its images were made from, (B, C, H, W), as a third.

    Shuffled, it is an endless stream: epoch after epoch, each in an order of its own that depends
    on (seed, epoch) alone, not on the global random state, which it does not touch either. An
    iteration yields the next ``len(self)`` batches of the stream: normally one epoch. One that was
    broken off is taken up where it stopped, in the same process or, by ``state_dict``, in another,
    however the caller counts its epochs. Not shuffled, every iteration starts at the first image.

    With several processes each takes every world_size-th image of the common order, and all of
    them get the same number of batches: the order is continued from its beginning where it does not
    divide evenly, or cut where `drop_last` is set.

    Args:
        images: uint8 (N, C, H, W), on the device where the batches are wanted.
        labels: int64 (N,), on the same device.
        batch_size: images in a batch of one process; the last batch may be smaller.
        shuffle: a new order every epoch, for training; otherwise the order of the tensors.
        drop_last: leave out what does not fill a batch.
        seed: of the order, not negative.
        rank: the number of this process.
        world_size: the number of processes.
        noise: float32 (N, C, H, W), on the same device.
        pin_memory: hand out batches in page-locked memory, for asynchronous copies to a GPU.

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

        self.epoch, self.batch = 0, 0  # of the batch that comes next
        self.last_indices: Tensor | None = None  # (B,) int64 on the CPU, of the last batch

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self._num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield the next ``len(self)`` batches."""
        # This is a generator: nothing happens before the first batch is asked for. Lightning calls
        # iter() more often than it iterates, and loads a state after it has called it.
        if not self.shuffle:
            self.set_epoch(0)
        epoch: int | None = None
        for _ in range(len(self)):
            if epoch != self.epoch:
                epoch, order = self.epoch, self.order(self.epoch)
                order_there = order.to(self.images.device)  # once, so that no batch waits
            part = slice(self.batch * self.batch_size, (self.batch + 1) * self.batch_size)
            # Counted before it is handed out: whoever has the batch and saves has used it.
            self._go_to(self.epoch, self.batch + 1)
            self.last_indices = order[part]
            indices = order_there[part]
            yield tuple(select(tensor, indices, self.pin_memory) for tensor in self._tensors)

    def order(self, epoch: int) -> Tensor:
        """Return the indices (int64) of the images this process yields in that epoch."""
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
        """Let the next batch be the first one of this epoch."""
        self._go_to(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return which batch comes next, and what the order depends on."""
        return {"epoch": self.epoch, "batch": self.batch, "order": self._order_settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next batch be the one after the last one that was yielded.

        Warns if the position lies inside an epoch whose batches are no longer the same.
        """
        self._go_to(state_dict["epoch"], state_dict["batch"])
        saved, now = state_dict["order"], self._order_settings()
        if saved != now and state_dict["batch"] > 0:
            changes = [f"{key} {saved[key]} -> {now[key]}" for key in now if saved[key] != now[key]]
            log.warning(
                "resuming in the middle of an epoch with other batches (%s): "
                "some images of this epoch may come twice or not at all",
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
    """Raise UserError unless the value is a whole number, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(
            f"{setting} is {value!r}: expected a whole number, at least {least}, "
            f"for example data.{setting}={max(least, 1)}"
        )

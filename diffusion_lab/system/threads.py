"""How many threads compute on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diffusion_lab.errors import UserError

_MOST = 1024


def check_threads(threads: int | None) -> None:
    """Raise UserError for a number that torch would not take; None is its own choice."""
    if threads is not None and not 1 <= threads <= _MOST:
        raise UserError(
            f"threads={threads}: expected from 1 to {_MOST}, or null for torch's choice"
        )


@contextmanager
def threads_restored() -> Iterator[None]:
    """Whatever number is set inside: the jobs of a sweep share a process."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)

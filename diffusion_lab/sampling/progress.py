"""Progress lines of a command: its work and the estimated time left."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from time import monotonic
from typing import TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")
FIRST = 2.0
"""Seconds until the first line on the remaining time."""
EVERY = 10.0
"""Minimum seconds between two lines; work of more than 200 s prints about 20 lines in all."""


class Plan:
    """Progress of a command's work, counted in units such as images times steps."""

    def __init__(self, total: float) -> None:
        self._total, self._done = total, 0.0
        self._began, self._next = monotonic(), FIRST

    def advance(self, amount: float) -> None:
        """Count finished units; print a progress line if the last line was long enough ago."""
        self._done += amount
        elapsed = monotonic() - self._began
        if elapsed < self._next or self._done <= 0:
            return
        left = elapsed * max(self._total - self._done, 0.0) / self._done
        fraction = min(self._done / self._total, 1.0)
        if left >= 1:
            say(f"{fraction:.0%} done, about {duration(left)} left")
        self._next = elapsed + max(EVERY, (elapsed + left) / 20)


_current: ContextVar[Plan | None] = ContextVar("plan", default=None)


@contextmanager
def planned_work(line: str | None, total: float) -> Iterator[Plan]:
    """Print `line`, if any, and report the progress of the work within the context.

    Code within the context calls `advance` or `counted`; `total` is the number of units in all.
    """
    if line is not None:
        say(line)
    plan = Plan(total)
    token = _current.set(plan)
    try:
        yield plan
    finally:
        _current.reset(token)


def advance(amount: float) -> None:
    """Count finished units of work towards the total of the enclosing `planned_work`, if any."""
    if (plan := _current.get()) is not None:
        plan.advance(amount)


def counted(items: Iterable[_Item]) -> Iterator[_Item]:
    """Yield the items; each item counts as one unit of work of the enclosing `planned_work`."""
    for item in items:
        yield item
        advance(1)


def say(line: str) -> None:
    """Print a line on standard output, above the progress bars."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def times(count: int, word: str) -> str:
    """Return a count with a singular or plural word: "1 seed", "3 seeds"."""
    return f"{count:,} {word}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """Format seconds as "12 s" or "0:02:30"."""
    return f"{seconds:.2g} s" if seconds < 99 else str(timedelta(seconds=round(seconds)))

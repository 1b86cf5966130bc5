"""Print what a command is about to do and, while it works, how much time is left."""

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
"""Seconds until the time left is told for the first time."""
EVERY = 10.0
"""Seconds between two lines, at least; of long work a line tells of each twentieth."""


class Plan:
    """Work of `total` units, such as images times steps, of which some are done."""

    def __init__(self, total: float) -> None:
        self._total, self._done = total, 0.0
        self._began, self._next = monotonic(), FIRST

    def advance(self, amount: float) -> None:
        """Count what was done, and print a line when one is due."""
        self._done += amount
        elapsed = monotonic() - self._began
        if elapsed < self._next or self._done <= 0:
            return
        left = elapsed * max(self._total - self._done, 0.0) / self._done
        share = min(self._done / self._total, 1.0)
        if left >= 1:
            say(f"{share:.0%} done, about {duration(left)} left")
        self._next = elapsed + max(EVERY, (elapsed + left) / 20)


_current: ContextVar[Plan | None] = ContextVar("plan", default=None)


@contextmanager
def planned_work(line: str | None, total: float) -> Iterator[Plan]:
    """Print the line, if any, at once; within, `advance` counts towards `total`."""
    if line is not None:
        say(line)
    plan = Plan(total)
    token = _current.set(plan)
    try:
        yield plan
    finally:
        _current.reset(token)


def advance(amount: float) -> None:
    """Count what was done of the work that is planned, if any is."""
    if (plan := _current.get()) is not None:
        plan.advance(amount)


def counted(items: Iterable[_Item]) -> Iterator[_Item]:
    """Yield the items, each of which is a unit of the work that is planned."""
    for item in items:
        yield item
        advance(1)


def say(line: str) -> None:
    """Print a line on standard output, above the bars of a terminal."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def times(count: int, word: str) -> str:
    """Return "1 seed" or "3 seeds"."""
    return f"{count:,} {word}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """12 s, 0:02:30."""
    return f"{seconds:.2g} s" if seconds < 99 else str(timedelta(seconds=round(seconds)))

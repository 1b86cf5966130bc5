"""Two ways of doing one thing, measured in turn, so that a busy machine is busy for both."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Clock = Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """Measured values, as many of the baseline as of ours, pair by pair one after the other."""

    baseline: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours over the baseline of each pair."""
        return tuple(b / a for a, b in zip(self.baseline, self.ours, strict=True))

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest ratio and the largest."""
        return min(self.ratios), max(self.ratios)

    @property
    def medians(self) -> tuple[float, float]:
        """Of the baseline, of ours."""
        return statistics.median(self.baseline), statistics.median(self.ours)

    def map(self, change: Callable[[float], float]) -> "Comparison":
        """The same in another unit."""
        return Comparison(tuple(map(change, self.baseline)), tuple(map(change, self.ours)))


def alternate(
    baseline: Callable[[], float],
    ours: Callable[[], float],
    repeats: int,
    *,
    warm_up: bool = True,
) -> Comparison:
    """Measure baseline, ours, baseline, ours, ...; `warm_up` runs both once before, not counted."""
    if warm_up:
        baseline()
        ours()
    pairs = [(baseline(), ours()) for _ in range(repeats)]
    first, second = zip(*pairs, strict=True)
    return Comparison(first, second)


def timed(
    work: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter
) -> float:
    """Seconds of a piece of work, to the end of what it left queued on the device."""
    gc.collect()  # the garbage of what ran before is not this work's
    synchronize(device)
    began = clock()
    work()
    synchronize(device)
    return clock() - began


def synchronize(device: torch.device) -> None:
    """Wait for the device; a CPU has nothing queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def how_many(seconds_each: Sequence[float], repeats: int, seconds: float, most: int) -> int:
    """How often in a block the work can be done, at least once, at most `most` times.

    `seconds` are for all blocks of all sides together, `seconds_each` of one piece of each side.
    """
    return max(1, min(most, int(seconds / (repeats * max(sum(seconds_each), 1e-9)))))

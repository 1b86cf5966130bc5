"""Compare two alternatives by alternating measurements, so that other load affects both."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Clock = Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """Measured values of the baseline and of ours, in pairs measured one after the other."""

    baseline: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours / baseline, for each pair."""
        return tuple(b / a for a, b in zip(self.baseline, self.ours, strict=True))

    @property
    def ratio(self) -> float:
        """Median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest ratio."""
        return min(self.ratios), max(self.ratios)

    @property
    def medians(self) -> tuple[float, float]:
        """Median of the baseline, median of ours."""
        return statistics.median(self.baseline), statistics.median(self.ours)

    def map(self, change: Callable[[float], float]) -> "Comparison":
        """Convert all values with a function, for example to another unit."""
        return Comparison(tuple(map(change, self.baseline)), tuple(map(change, self.ours)))


def alternate(
    baseline: Callable[[], float],
    ours: Callable[[], float],
    repeats: int,
    *,
    warm_up: bool = True,
) -> Comparison:
    """Measure baseline, ours, baseline, ours, ...; `warm_up` runs both once before, uncounted."""
    if warm_up:
        baseline()
        ours()
    pairs = [(baseline(), ours()) for _ in range(repeats)]
    first, second = zip(*pairs, strict=True)
    return Comparison(first, second)


def timed(
    work: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter
) -> float:
    """Measure the seconds of a function, including its queued work on the device."""
    gc.collect()  # so that garbage of earlier work is not collected within the measured time
    synchronize(device)
    began = clock()
    work()
    synchronize(device)
    return clock() - began


def synchronize(device: torch.device) -> None:
    """Wait for the device's queued work; a CPU has none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def how_many(seconds_each: Sequence[float], repeats: int, seconds: float, most: int) -> int:
    """Return the number of work items per block, from 1 to `most`.

    A block is one timed measurement. Each side of the comparison has `repeats` blocks, and all
    blocks of all sides together should take `seconds`. `seconds_each` holds, for each side, the
    time of one work item.
    """
    return max(1, min(most, int(seconds / (repeats * max(sum(seconds_each), 1e-9)))))

"""Compare two alternatives by alternating measurements, so that other load affects both alike."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Clock = Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """Measured values of the baseline and of our code, in pairs measured one after the other."""

    baseline: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """The ratio ours / baseline of each pair."""
        return tuple(b / a for a, b in zip(self.baseline, self.ours, strict=True))

    @property
    def ratio(self) -> float:
        """Median of the ratios ours / baseline."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest ratio ours / baseline."""
        return min(self.ratios), max(self.ratios)

    @property
    def medians(self) -> tuple[float, float]:
        """Median value of the baseline and median value of ours."""
        return statistics.median(self.baseline), statistics.median(self.ours)

    def map(self, change: Callable[[float], float]) -> "Comparison":
        """Return a Comparison with `change` applied to every value, for example to change units."""
        return Comparison(tuple(map(change, self.baseline)), tuple(map(change, self.ours)))


def alternate(
    baseline: Callable[[], float],
    ours: Callable[[], float],
    repeats: int,
    *,
    warm_up: bool = True,
) -> Comparison:
    """Call two measuring functions in turn, `repeats` times each, and return their values.

    With `warm_up` each function is called once before, and these first values are discarded.
    """
    if warm_up:
        baseline()
        ours()
    pairs = [(baseline(), ours()) for _ in range(repeats)]
    first, second = zip(*pairs, strict=True)
    return Comparison(first, second)


def timed(
    work: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter
) -> float:
    """Run `work` and return its seconds, including the work that it queues on the device."""
    gc.collect()  # so that garbage of earlier work is not collected within the measured time
    synchronize(device)
    began = clock()
    work()
    synchronize(device)
    return clock() - began


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work; return at once for a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def how_many(seconds_each: Sequence[float], repeats: int, seconds: float, most: int) -> int:
    """Return the number of work items per timed block, from 1 to `most`.

    A work item is for example one training step. Each of the compared alternatives runs `repeats`
    blocks, and all their blocks together should take about `seconds`. `seconds_each` holds, for
    each alternative, the seconds of one work item.
    """
    return max(1, min(most, int(seconds / (repeats * max(sum(seconds_each), 1e-9)))))

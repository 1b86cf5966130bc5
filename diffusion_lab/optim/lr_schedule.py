"""Learning-rate schedules as functions of the training progress, from 0 (start) to 1 (end).

A schedule therefore works with a limit on steps, on epochs or on time (`trainer.max_time`).
"""

import math
from collections.abc import Callable

from diffusion_lab.errors import UserError

LRSchedule = Callable[[float], float]
"""Fraction of training done, in [0, 1] -> factor on the optimizer's lr, in [0, 1]."""


class Constant:
    """Constant learning rate: the factor on the optimizer's lr is 1."""

    def __call__(self, progress: float) -> float:
        return 1.0


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class Cosine:
    """Cosine decay of the learning rate from the optimizer's lr to `final` times lr.

    Loshchilov & Hutter 2016 (arXiv 1608.03983), eq. 5. `warmup` is the fraction of training
    over which the learning rate first rises linearly from 0 to lr.
    """

    def __init__(self, warmup: float = 0.0, final: float = 0.0) -> None:
        if not (0 <= warmup < 1 and 0 <= final <= 1):
            raise UserError(
                f"lr_scheduler.warmup={warmup}, lr_scheduler.final={final}: "
                "expected 0 <= warmup < 1 and 0 <= final <= 1"
            )
        self.warmup = warmup
        self.final = final

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        return _anneal(1.0, self.final, (progress - self.warmup) / (1 - self.warmup))


class OneCycle:
    """One-cycle schedule: a rise to the optimizer's lr until progress `peak`, then a fall.

    Both parts follow cosines (Smith & Topin 2017, arXiv 1708.07120). The learning rate begins at lr
    / div and ends at lr / (div * final_div). The parameters `div`, `final_div` and `peak` are
    div_factor, final_div_factor and pct_start of torch's OneCycleLR.
    """

    def __init__(self, peak: float = 0.3, div: float = 25.0, final_div: float = 1e4) -> None:
        if not (0 < peak < 1 and div >= 1 and final_div >= 1):
            raise UserError(
                f"lr_scheduler.peak={peak}, lr_scheduler.div={div}, lr_scheduler.final_div="
                f"{final_div}: expected 0 < peak < 1, div >= 1 and final_div >= 1"
            )
        self.peak = peak
        self.start = 1 / div
        self.end = 1 / (div * final_div)

    def __call__(self, progress: float) -> float:
        if progress < self.peak:
            return _anneal(self.start, 1.0, progress / self.peak)
        return _anneal(1.0, self.end, (progress - self.peak) / (1 - self.peak))

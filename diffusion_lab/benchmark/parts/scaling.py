"""Growth of training, loading and sampling time with the problem size, next to FLOP counts."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_lab.benchmark.machine import flops
from diffusion_lab.benchmark.parts.sampling import FAST, untrained
from diffusion_lab.benchmark.parts.trainer_overhead import BareLoop
from diffusion_lab.benchmark.settings import Settings
from diffusion_lab.benchmark.timing import timed
from diffusion_lab.config.instantiate import build
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.loader import InMemoryLoader
from diffusion_lab.sampling.conditioning import Conditioning

BATCHES = (16, 32, 64, 128, 256, 512, 1024)
SIDES = (28, 32, 40, 48, 64)  # divisible by 4, as the fast network needs
DATA_SETS = (1_000, 10_000, 100_000, 1_000_000)
IMAGES = (16, 32, 64, 128, 256, 512)
STEPS = (5, 10, 20, 40, 80)
BYTES_A_PIXEL = 2.5  # of a synthetic data set: the split copies the generated images


@dataclass(frozen=True)
class Curve:
    """Measured seconds at several values of a size x, such as the batch size."""

    name: str
    xlabel: str
    x: tuple[float, ...]
    seconds: tuple[float, ...]
    arithmetic: tuple[float, ...] | None = None
    """Floating-point operations at each x; None if they are proportional to x."""
    note: str = ""
    also: dict[str, Any] = field(default_factory=dict)

    @property
    def exponent(self) -> float:
        """Exponent p of the power law seconds ~ x^p, fitted to all points; 1 means proportional."""
        return slope(self.x, self.seconds)

    @property
    def bend(self) -> tuple[float, float, float]:
        """The exponent, first x and last x of the steepest line between neighbouring points.

        The exponent is the slope of log seconds over log x.
        """
        pieces = itertools.pairwise(zip(self.x, self.seconds, strict=True))
        return max((slope((a[0], b[0]), (a[1], b[1])), a[0], b[0]) for a, b in pieces)

    @property
    def line(self) -> str:
        """Line to print: name, `exponent` of the whole curve, steepest exponent (`bend`), note."""
        steepest, start, end = self.bend
        text = (
            f"{self.name}: exponent {self.exponent:.2f}, steepest {steepest:.2f} "
            f"from {start:,g} to {end:,g}"
        )
        if self.arithmetic is not None:
            text += f"; of the operations {slope(self.x, self.arithmetic):.2f}"
        return f"{text}; {self.note}" if self.note else text

    def as_json(self) -> dict[str, Any]:
        """Return the curve as a dictionary for benchmark.json."""
        return {
            "name": self.name,
            "x": list(self.x),
            "xlabel": self.xlabel,
            "seconds": list(self.seconds),
            "flops": None if self.arithmetic is None else list(self.arithmetic),
            "exponent": self.exponent,
            "steepest": dict(zip(("exponent", "from", "to"), self.bend, strict=True)),
            "note": self.note,
        } | self.also


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the least-squares slope of log y over log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def scaling(settings: Settings, largest: float = math.inf) -> list[Curve]:
    """Measure all curves at sizes up to `largest`, but at least at the two smallest sizes."""

    def up_to(values: Sequence[int]) -> Sequence[int]:
        kept = [v for v in values if v <= largest]
        return kept if len(kept) > 1 else values[:2]

    return [
        _training_by_batch(settings, up_to(BATCHES)),
        _training_by_side(settings, up_to(SIDES)),
        *_loading(settings, up_to(DATA_SETS)),
        _sampling(settings, "images sampled", up_to(IMAGES), images=True),
        _sampling(settings, "sampler steps", up_to(STEPS), images=False),
    ]


def _passes(
    settings: Settings, works: Sequence[Callable[[], object]], budget: float
) -> tuple[float, ...]:
    """Return the shortest time of each function in seconds, over several passes.

    The shortest time is used because other load on the machine only adds time. There are as many
    passes as fit in `budget` seconds, at least one and at most `settings.repeats`.
    """
    for work in works:
        work()
    seconds = [[timed(work, settings.device) for work in works]]
    passes = int(min(settings.repeats, max(1, budget / sum(seconds[0]))))
    seconds += [[timed(work, settings.device) for work in works] for _ in range(passes - 1)]
    return tuple(min(column) for column in zip(*seconds, strict=True))


def _loop(settings: Settings, side: int, batch_size: int) -> BareLoop:
    """Build a loop that trains experiment=fast_classes on images of side x side pixels."""
    cfg = settings.compose(
        *FAST,
        "data=fake",
        f"data.num_images={2 * batch_size + 1}",  # full batches: a smaller one would be faster
        "data.val_size=1",
        f"data.image_size={side}",
        f"data.batch_size={batch_size}",
    )
    data: ImageDataModule = build(cfg.data)
    data.setup("fit")
    return BareLoop(build(cfg.model), data, settings.device)


def _operations(loop: BareLoop) -> float:
    return float(flops(partial(loop.steps, 1)))


def _training_by_batch(settings: Settings, batches: Sequence[int]) -> Curve:
    loops = [_loop(settings, 28, size) for size in batches]
    operations = tuple(_operations(loop) for loop in loops)
    seconds = _passes(settings, [partial(loop.steps, 1) for loop in loops], settings.seconds)
    return Curve(
        "training step over batch size",
        "images in a batch",
        tuple(batches),
        seconds,
        operations,
        "below 1 where more images share the fixed cost of a step",
    )


def _training_by_side(settings: Settings, sides: Sequence[int]) -> Curve:
    batch_size = min(64, settings.batch_size)
    loops = [_loop(settings, side, batch_size) for side in sides]
    operations = tuple(_operations(loop) for loop in loops)
    seconds = _passes(settings, [partial(loop.steps, 1) for loop in loops], settings.seconds)
    return Curve(
        "training step over pixels per image",
        "pixels per image",
        tuple(side**2 for side in sides),
        seconds,
        operations,
        "convolutions cost the same for every pixel",
        {"sides": list(sides), "batch_size": batch_size},
    )


def _loading(settings: Settings, sizes: Sequence[int]) -> list[Curve]:
    """Time a whole epoch and the first batch of the data loader, for each data set size.

    Only one data set is in memory at a time. The first two sizes are always measured. Of the other
    sizes, the first that would exceed the free memory ends the measurement.
    """
    epochs, firsts, made = [], [], []
    measured: list[int] = []
    for size in sizes:
        if len(measured) > 1 and size * 28**2 * BYTES_A_PIXEL > _free_bytes():
            break
        began = time.perf_counter()
        data = settings.datamodule(
            "data=fake", f"data.num_images={size}", "data.val_size=0", "data.image_size=28"
        )
        made.append(time.perf_counter() - began)
        loader = data.train_dataloader()

        passes = max(1, min(200, 2_000 // len(loader)))  # enough to time a small data set
        firsts.append(min(timed(partial(_first_batch, loader), settings.device) for _ in range(3)))
        epoch = partial(_epochs, loader, passes)
        epochs.append(min(timed(epoch, settings.device) for _ in range(3)) / passes)
        measured.append(size)
        del data, loader, epoch
    x = tuple(measured)
    left_out = [size for size in sizes if size not in measured]
    note = f"left out for lack of memory: {left_out}" if left_out else ""
    return [
        Curve(
            "epoch of the loader over images in the data set",
            "images in the data set",
            x,
            tuple(epochs),
            note=note or "above 1 where the images outgrow the processor's caches",
            also={"batch_size": settings.batch_size, "setup_seconds": made},
        ),
        Curve(
            "first batch of an epoch over images in the data set",
            "images in the data set",
            x,
            tuple(firsts),
            note="it includes shuffling, one random number per image",
        ),
    ]


def _first_batch(loader: InMemoryLoader) -> None:
    loader.set_epoch(0)
    next(iter(loader))


def _epochs(loader: InMemoryLoader, count: int) -> None:
    loader.set_epoch(0)
    for _ in range(count):
        for _batch in loader:
            pass


def _sampling(settings: Settings, name: str, values: Sequence[int], *, images: bool) -> Curve:
    run = untrained(settings, *FAST)
    run.module.to(settings.device)
    fixed = 10 if images else min(64, settings.num_samples)
    batch_size = min(64, settings.num_samples)

    def work(value: int) -> Callable[[], object]:
        sampler = run.sampler(num_steps=fixed if images else value)
        return lambda: run.sample(
            value if images else fixed,
            sampler=sampler,
            conditioning=Conditioning(),
            batch_size=batch_size,
        )

    seconds = _passes(settings, [work(value) for value in values], settings.seconds)
    fixed_name = "steps" if images else "num_samples"
    return Curve(
        f"sampling over {name}",
        name,
        tuple(values),
        seconds,
        also={fixed_name: fixed, "batch_size": batch_size},
    )


def _free_bytes() -> float:
    """Return the available memory in bytes, or infinity if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        [line] = [text for text in lines if text.startswith("MemAvailable")]
    except OSError:
        return math.inf
    return 1024.0 * int(line.split()[1])

"""Where the checks run, what they are told, and the rows they give."""

import gc
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch

from diffusion_lab import compose_config, train
from diffusion_lab.training import build as parts
from diffusion_lab.training.train import TrainResult
from tests.support.forked import ROOT, Forked

SMALL = ("data=fake", "data.num_images=160", "data.val_size=16", "data.batch_size=8")
SMALL_UNET2D = (
    "network.block_out_channels=[8,8]",
    "network.down_block_types=[DownBlock2D,AttnDownBlock2D]",
    "network.up_block_types=[AttnUpBlock2D,UpBlock2D]",
    "network.layers_per_block=1",
    "network.norm_num_groups=4",
)
"""In place of the tutorial's UNet2DModel, which takes seconds a step on a CPU."""
NOT_JUDGED, OK, MISSED, SKIPPED, FAILED = "not judged", "ok", "missed", "skipped", "FAILED"


@dataclass
class Row:
    """One line of the table."""

    what: str
    found: str
    goal: str = ""
    verdict: str = OK
    seconds: float = 0.0
    details: Any = None
    """For gpu_check.json alone."""


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def path(self) -> Path:
        """The last line, of a command that did what it should."""
        assert self.code == 0, f"exit code {self.code}: {self.err[-1500:]}"
        return Path(self.out.strip().splitlines()[-1])

    def refused(self, code: int, *says: str) -> str:
        """The one line of an error."""
        assert self.code == code, f"exit code {self.code}, expected {code}: {self.err[-1500:]}"
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in self.err, self.err[-1500:]
        assert all(word in lines[0] for word in says), lines[0]
        return lines[0]


@dataclass
class Place:
    """The device, how much may be asked of it, and what was found there."""

    device: torch.device
    tiny: bool
    scratch: Path
    full: bool
    """Whether all 60,000 training images of MNIST are there."""
    rows: dict[str, list[Row]] = field(default_factory=dict)
    """By the names of the checks."""
    stopped: threading.Event = field(default_factory=threading.Event)
    processes: "list[Process]" = field(default_factory=list)

    def all_rows(self) -> list[Row]:
        """What was found, in the order of the checks."""
        order = [check.what for check in (*BESIDE, *HERE, *ALONE)]
        return [row for what in order for row in self.rows.get(what, [])]

    def stop(self) -> None:
        """Kill all processes, begin no more, take no more rows."""
        self.stopped.set()
        for process in self.processes:
            process.kill()

    @property
    def on_gpu(self) -> bool:
        """Whether it is an NVIDIA GPU."""
        return self.device.type == "cuda"

    @property
    def accelerator(self) -> str:
        """As it is typed."""
        return f"trainer.accelerator={'gpu' if self.on_gpu else 'cpu'}"

    def folder(self) -> Path:
        """A new one."""
        return Path(tempfile.mkdtemp(dir=self.scratch))

    def start(self, name: str, *words: str) -> "Process":
        """Begin scripts/<name>.py in a process of its own, in a new folder."""
        if self.stopped.is_set():
            raise RuntimeError("the checks were stopped")
        process = self._begin(name, words)
        self.processes.append(process)
        if self.stopped.is_set():  # meanwhile
            process.kill()
        return process

    def _begin(self, name: str, words: Sequence[str]) -> "Process":
        if self.tiny:  # without waiting for the imports
            return Forked(name, *words, cwd=self.folder(), OMP_NUM_THREADS="1")
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *words],
            cwd=self.folder(),
            # several at a time share the cores
            env={"OMP_NUM_THREADS": "2", **os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others
        )

    def command(self, name: str, *words: str) -> Ended:
        """Such a process to its end."""
        process = self.start(name, *words)
        try:
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
        assert process.returncode is not None
        return Ended(process.returncode, out, err)

    def train(self, callback: L.Callback | None, *words: str) -> TrainResult:
        """Train in this process, with a callback of the check's own before all others."""
        build = parts.build_callbacks
        more = [] if callback is None else [callback]
        cfg = compose_config([self.accelerator, *words], self.folder())
        try:
            parts.build_callbacks = lambda *args, **options: [*more, *build(*args, **options)]
            return train(cfg)
        finally:
            parts.build_callbacks = build
            gc.collect()
            if self.on_gpu:
                torch.cuda.empty_cache()


Process = subprocess.Popen[str] | Forked
Work = Callable[[Place], Iterator[Row]]


@dataclass(frozen=True)
class Check:
    """Something to find out, and how."""

    what: str
    seconds: float
    """That it takes on a GPU, about."""
    work: Work


BESIDE: list[Check] = []
"""In processes of their own, side by side."""
HERE: list[Check] = []
"""In this process, while those run."""
ALONE: list[Check] = []
"""In this process, with nothing beside them: they are timed."""


def check(kind: list[Check], what: str, seconds: float) -> Callable[[Work], Work]:
    """Add a check."""

    def add(work: Work) -> Work:
        kind.append(Check(what, seconds, work))
        return work

    return add


def needs_a_gpu(what: str) -> Row:
    """The row of a check that a CPU has no use for."""
    return Row(what, "needs a GPU", verdict=SKIPPED)


def goal(place: Place, what: str, value: float, unit: str, wanted: float, *, at_least: bool) -> Row:
    """A figure with a goal, which a CPU is not asked to meet."""
    met = value >= wanted if at_least else value <= wanted
    return Row(
        what,
        f"{value:.3g} {unit}",
        f"{'at least' if at_least else 'at most'} {wanted:g} {unit}",
        (OK if met else MISSED) if place.on_gpu else NOT_JUDGED,
    )


def words_of(place: Place, small: Sequence[str], large: Sequence[str] = ()) -> list[str]:
    """One list of words for a CPU, another for a GPU."""
    return list(small if place.tiny else large)

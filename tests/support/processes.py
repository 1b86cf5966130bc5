"""Training runs that go on in a process of their own while a test does something to them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import TINY
from tests.support.forked import Forked


@dataclass
class Running:
    process: Forked
    run_dir: Path

    def wait_for(self, text: str) -> None:
        """Read until a line holds the text."""
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if text in line:
                return
        raise AssertionError("".join(seen) + (self.process.stderr.read()))

    def ended(self) -> tuple[int, str]:
        """(exit code, standard error)."""
        _, err = self.process.communicate(timeout=300)
        return self.process.wait(), err


def start(run_dir: Path, *overrides: str) -> Forked:
    """Training that does not end by itself, in this run folder."""
    words = (*TINY, "trainer.max_epochs=9999", f"hydra.run.dir={run_dir}", *overrides)
    return Forked("train", *words)


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Ask again and again."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@contextmanager
def training(run_dir: Path, *overrides: str) -> Iterator[Running]:
    """The same, in its third epoch: two have been saved."""
    process = start(run_dir, *overrides)
    running = Running(process, run_dir)
    try:
        running.wait_for("epoch 2:")
        yield running
    finally:
        process.kill()
        process.communicate()

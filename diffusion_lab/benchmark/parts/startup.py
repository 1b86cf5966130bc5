"""Benchmark of the start-up time of scripts/train.py, from the start of its process."""

import subprocess
import sys
import time
from collections.abc import Sequence

from diffusion_lab.benchmark.parts.first_step import LINE, FirstStep
from diffusion_lab.benchmark.settings import Settings
from diffusion_lab.benchmark.subprocesses import child_environment, fail
from diffusion_lab.benchmark.table import Row, Target
from diffusion_lab.benchmark.timing import alternate

IMPORTS = "import torch, lightning, diffusers"
TRAIN = "from diffusion_lab.cli import train; train()"  # as in scripts/train.py
HELP = Target(0.3, at_least=False)
FIRST_STEP = Target(1.5, at_least=False)


def start_up(settings: Settings) -> list[Row]:
    """Measure the seconds until `train.py --help` ends and until the first training step is done.

    The baseline is a process that only imports torch, lightning and diffusers.
    """
    against = f'python -c "{IMPORTS}"'
    training = (
        "experiment=smoke",
        f"trainer.accelerator={settings.accelerator}",
        f"+callbacks.first_step._target_={FirstStep.__module__}.FirstStep",
    )

    def new_run() -> tuple[str]:
        return (f"hydra.run.dir={settings.new_folder()}",)

    # each takes seconds, so few repeats are enough
    repeats = min(3, settings.repeats)

    def row(what: str, words: Sequence[str], line: str | None, target: Target) -> Row:
        comparison = alternate(
            lambda: seconds_until(settings, ("-c", IMPORTS), None),
            lambda: seconds_until(settings, ("-c", TRAIN, *words, *new_run()), line),
            repeats,
            warm_up=settings.repeats > 1,  # the first start reads files from the disk
        )
        return Row("start_up", what, against, "s", comparison, target)

    return [
        row("train.py --help", ("--help",), None, HELP),
        row("start to first step, experiment=smoke", training, LINE, FIRST_STEP),
    ]


def seconds_until(settings: Settings, arguments: Sequence[str], line: str | None) -> float:
    """Run `python <arguments>`; return the seconds until it prints `line`.

    With line=None, returns the seconds until the process ends. Raises RuntimeError if the process
    fails.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=settings.scratch,
        env=child_environment(settings),
    )
    assert process.stdout is not None
    try:
        if line is None:
            _, errors = process.communicate()
            if process.returncode:
                fail(arguments, errors)
            return time.perf_counter() - began
        for printed in process.stdout:
            if printed.strip() == line:
                return time.perf_counter() - began
        fail(arguments, process.communicate()[1])
    finally:
        process.kill()
        process.communicate()

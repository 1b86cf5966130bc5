"""Kill a training repeatedly, resume it, and compare it with one never stopped.

`python -m tests.training.torture <folder> --kills 100`. Every attempt is a process of its own,
forked from this one after the imports; the kills are real signals at random moments, and inside the
writing of a checkpoint. Prints what was killed how, and every difference; the exit code says if
there was one.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffusion_lab import cli
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.runs.checkpoint import SafeCheckpointIO
from diffusion_lab.training import train as _imported_before_the_forks  # noqa: F401
from diffusion_lab.training.rerun import differences
from tests.support.resume_settings import BASE, SETTINGS, state_of

WORDS = (
    *(word for word in BASE if not word.startswith(("model", "network"))),
    "model=flow",
    "model.num_classes=10",
    "network.width=8",
    "network.depth=1",
    "+callbacks.post_hoc_ema={_target_: diffusion_lab.callbacks.PostHocEMA, every_n_steps: 7}",
)
DRAWN = [name for name in SETTINGS if "time" not in name]  # a real clock makes other steps
KILLED = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)
Fault = Callable[[], None]
"""Arranges, in the process that is to be killed, for its death."""


def attempt(words: list[str], log: Path, fault: Fault | None, *, kill: Any = None) -> int:
    """Run scripts/train.py with these overrides in a fork; return its exit status as Popen does.

    `kill` is (seconds, signal): what this process sends the other and when.
    """
    pid = os.fork()
    if pid == 0:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["train.py", *words]
        code: Any = 1
        try:
            if fault is not None:
                fault()
            cli.train()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if kill is not None:
        time.sleep(kill[0])
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        os.kill(pid, kill[1])
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_the_middle_of_a_write(nth: int, share: float) -> Fault:
    """Kill the process with a part of the nth checkpoint, or post-hoc average, on disk."""
    save, count = torch.save, Counter[str]()

    def write(content: Any, file: Any) -> None:
        save(content, file)
        count["saves"] += 1
        if count["saves"] == nth:
            path = file if isinstance(file, Path) else Path(file.name)
            os.truncate(path, int(path.stat().st_size * share))
            die()

    def arrange() -> None:
        torch.save = write

    return arrange


def before_a_rename(nth: int) -> Fault:
    """Kill the process after writing a file and before renaming it."""
    replace, count = Path.replace, Counter[str]()

    def rename(self: Path, target: Path) -> Path:
        if str(target).endswith(".ckpt"):
            count["renames"] += 1
            if count["renames"] == nth:
                die()
        return replace(self, target)

    def arrange() -> None:
        Path.replace = rename  # type: ignore[method-assign]

    return arrange


def in_a_validation(nth: int) -> Fault:
    """Kill the process in a validation, while the moving average replaces the weights."""
    step, count = DiffusionModule.validation_step, Counter[str]()

    def validate(self: Any, batch: Any, batch_idx: int) -> Any:
        count["steps"] += 1
        if count["steps"] == nth:
            die()
        return step(self, batch, batch_idx)

    def arrange() -> None:
        DiffusionModule.validation_step = validate  # type: ignore[method-assign]

    return arrange


def after_a_save(nth: int) -> Fault:
    """Kill the process right after a checkpoint is saved."""
    save, count = SafeCheckpointIO.save_checkpoint, Counter[str]()

    def saved(self: Any, *args: Any, **more: Any) -> None:
        save(self, *args, **more)
        count["saves"] += 1
        if count["saves"] == nth:
            die()

    def arrange() -> None:
        SafeCheckpointIO.save_checkpoint = saved  # type: ignore[method-assign]

    return arrange


def draw_fault(rng: random.Random, seconds: float) -> tuple[str, Fault | None, Any]:
    """Choose a fault at random: its name, its hook inside the process, its signal from outside."""
    kind = rng.choice(
        ["SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "write", "rename", "validation", "saved"]
    )
    if kind.startswith("SIG"):
        return kind, None, (rng.uniform(0.1, seconds), signal.Signals[kind])
    nth = rng.randint(1, 20)
    made = {
        "write": lambda: in_the_middle_of_a_write(nth, rng.random()),
        "rename": lambda: before_a_rename(nth),
        "validation": lambda: in_a_validation(rng.randint(1, 4)),
        "saved": lambda: after_a_save(nth),
    }
    return f"in {kind}", made[kind](), None


def finished(run: Path) -> bool:
    """Return True if metrics.json has the status "finished"."""
    record = run / "metrics.json"
    return record.is_file() and json.loads(record.read_text())["status"] == "finished"


def never_stopped(folder: Path, setting: str) -> tuple[dict[str, Any], float]:
    """Train without a stop; return the content of the run folder and the seconds."""
    run, log = folder / f"straight {setting}", folder / f"straight {setting}.log"
    began = time.monotonic()
    code = attempt([*WORDS, *SETTINGS[setting], f"hydra.run.dir='{run}'"], log, None)
    assert code == 0, log.read_text()
    return state_of(run), time.monotonic() - began


def torture(folder: Path, kills: int, seed: int) -> int:
    """Kill at least `kills` times; return the number of differences."""
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    began = time.monotonic()
    straight: dict[str, tuple[dict[str, Any], float]] = {}
    done: Counter[str] = Counter()
    found, runs = 0, 0
    while done.total() < kills:
        setting = rng.choice(DRAWN)
        if setting not in straight:
            straight[setting] = never_stopped(folder, setting)
        expected, seconds = straight[setting]
        run, log = folder / f"run_{runs}", folder / f"run_{runs}.log"
        first = words = [*WORDS, *SETTINGS[setting], f"hydra.run.dir={run}"]
        code = -1
        while code != 0:
            every = f"callbacks.last.every_seconds={rng.choice([0, 0, 0.2, 60])}"
            name, fault, kill = ("", None, None)
            if done.total() < kills:
                name, fault, kill = draw_fault(rng, 1.5 * seconds)
            code = attempt([*words, every], log, fault, kill=kill)
            if code in KILLED:
                done[name] += 1
            if finished(run):
                code = 0  # the signal came after the work
            elif code not in KILLED:
                print(f"{run}: exit {code} after {name}\n{log.read_text()[-3000:]}")
                return found + 1
            if (run / "checkpoints").is_dir() and any((run / "checkpoints").glob("*.ckpt")):
                words = [f"resume={run}"]
            elif code != 0:  # nothing was saved yet: begin again
                shutil.rmtree(run, ignore_errors=True)
                words = first
        runs += 1
        for difference in differences(expected, state_of(run)):
            found += 1
            print(f"{run} ({setting}): {difference}")
        shutil.rmtree(run)
    print(
        f"{done.total()} kills in {runs} runs of {len(straight)} settings, {found} differences, "
        f"{time.monotonic() - began:.0f} s: "
        + ", ".join(f"{count} {name}" for name, count in sorted(done.items()))
    )
    return found


def main() -> None:
    """Run `python -m tests.training.torture folder --kills 100 --seed 0`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a pool of threads would not survive a fork
    sys.exit(torture(arguments.folder.absolute(), arguments.kills, arguments.seed) > 0)


if __name__ == "__main__":
    main()

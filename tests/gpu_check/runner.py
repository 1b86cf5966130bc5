"""Runs the checks, and writes gpu_check.json and gpu_check.md after each."""

import argparse
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.logging import disable_progress_bar

import tests.gpu_check
from diffusion_lab.benchmark.machine import machine
from diffusion_lab.errors import UserError
from diffusion_lab.system.device import check_gpu, gpu_settings_restored, why_no_gpu
from diffusion_lab.system.git import git_commit
from diffusion_lab.system.output import write_json
from diffusion_lab.training.components import quieten_lightning
from tests.gpu_check import commands, correctness, speed  # noqa: F401  (they add their checks)
from tests.gpu_check.place import ALONE, BESIDE, FAILED, HERE, SKIPPED, Check, Place, Row
from tests.support.forked import ROOT


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this thread after so long."""

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def perform(place: Place, check: Check, note: Callable[[], None]) -> None:
    """Add the rows of a check, each as it comes; an error is one too."""
    began = time.perf_counter()

    def add(row: Row) -> None:
        nonlocal began
        if place.stopped.is_set():
            return
        row.seconds, began = time.perf_counter() - began, time.perf_counter()
        place.rows.setdefault(check.what, []).append(row)
        note()
        print(f"{row.verdict:>10}  {row.what}: {row.found}", flush=True)

    try:
        for row in check.work(place):
            add(row)
    except Exception as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        add(Row(check.what, found, "", FAILED, details=traceback.format_exc()))


def in_order(
    place: Place, checks: Sequence[Check], deadline: float, note: Callable[[], None]
) -> None:
    """One check after the other, as long as there is time for half of it."""
    for check in checks:
        left = deadline - time.monotonic()
        if left < check.seconds / 2:
            place.rows[check.what] = [Row(check.what, "no time was left", verdict=SKIPPED)]
        else:
            with time_limit(left), gpu_settings_restored():
                perform(place, check, note)
    note()


def run_all(
    place: Place, chosen: Sequence[Check], deadline: float, note: Callable[[], None]
) -> None:
    """Processes side by side and the quiet checks beside them, then what is timed, alone."""
    beside, here, alone = (
        [check for check in kind if check in chosen] for kind in (BESIDE, HERE, ALONE)
    )
    pool = ThreadPoolExecutor(2 if place.tiny else len(BESIDE))
    try:
        running = [pool.submit(perform, place, check, note) for check in beside]
        in_order(place, here, deadline, note)
        for process in running:
            process.result()
        in_order(place, alone, deadline, note)
    except BaseException:
        place.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def report(place: Place, out: Path, about: dict[str, Any]) -> None:
    """Write what is known so far."""
    rows = place.all_rows()
    write_json(out / "gpu_check.json", about | {"rows": [asdict(row) for row in rows]})
    data = "the full MNIST" if place.full else "without the full MNIST"
    lines = [
        f"{about['device']}, driver {about['driver']}, torch {about['versions']['torch']}, Python "
        f"{about['python']}, commit {about['commit']}, {about['seconds']:.0f} s, {data}",
        "",
        "| check | found | goal | verdict | s |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row.what, row.found, row.goal, row.verdict, f"{row.seconds:.1f}")
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    (out / "gpu_check.md").write_text("\n".join(lines) + "\n")


def driver() -> str:
    """The version of the GPU's driver, as nvidia-smi has it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "none"
    return answer.stdout.strip().splitlines()[0]


def commit() -> str:
    """Of the checkout; of a copy without git, what `make gpu-wheels` has noted."""
    noted = ROOT / "wheels" / "commit"
    return git_commit() or (noted.read_text().strip() if noted.is_file() else "unknown")


def arguments() -> argparse.Namespace:
    """Parse the command line; whatever is wrong there is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu_check",
        description=tests.gpu_check.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the two files")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing after these")
    parser.add_argument("--only", nargs="+", help="checks with such a word in their name")
    given = parser.parse_args()
    if not 0 < given.minutes < float("inf"):
        parser.error(f"--minutes {given.minutes}: expected a number above 0")
    every = [*BESIDE, *HERE, *ALONE]
    given.checks = [c for c in every if not given.only or any(w in c.what for w in given.only)]
    if not given.checks:
        names = ", ".join(f'"{check.what}"' for check in every)
        parser.error(f"--only {' '.join(given.only)}: no check has such a word, choose of {names}")
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=given.out):
            pass
    except OSError as error:
        parser.error(f"--out {given.out} cannot be written: {error.strerror}")
    return given


def run() -> None:
    """Run the checks, write what they found, say how many failed."""
    given = arguments()
    device = torch.device("cpu") if given.tiny else torch.device("cuda", 0)
    try:
        if not given.tiny and (why := why_no_gpu()):
            raise UserError(f"{why}; --tiny runs the checks on the CPU")
        check_gpu(device)
    except UserError as error:
        sys.exit(f"error: {error}")
    quieten_lightning()
    for name in ("diffusion_lab", "diffusers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    disable_progress_bar()
    began = time.monotonic()
    about = machine(device) | {"driver": driver(), "commit": commit(), "tiny": given.tiny}
    about |= {"system": platform.platform(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    images = Path(os.environ.get("DIFFUSION_LAB_DATA", "data"), "MNIST/raw/train-images-idx3-ubyte")
    writing = threading.Lock()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        place = Place(device, given.tiny, Path(scratch), images.is_file() and not given.tiny)

        def note() -> None:
            with writing:
                report(place, given.out, about | {"seconds": time.monotonic() - began})

        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        try:
            run_all(place, given.checks, began + 60 * given.minutes, note)
        except (KeyboardInterrupt, SystemExit) as end:
            print(f"interrupted; {given.out / 'gpu_check.md'} has what was found", file=sys.stderr)
            sys.exit(end.code if isinstance(end, SystemExit) else 130)
        note()
    verdicts = Counter(row.verdict for row in place.all_rows())
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    print(f"{counts}; {given.out / 'gpu_check.md'}")
    sys.exit(bool(verdicts[FAILED]) or set(verdicts) == {SKIPPED})

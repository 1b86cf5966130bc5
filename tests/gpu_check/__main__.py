"""Runs the checks, and writes gpu_check.json and gpu_check.md after each."""

import argparse
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import tests.gpu_check
from diffusion_lab.benchmark.machine import machine
from diffusion_lab.errors import UserError
from diffusion_lab.run.gpu import check_gpu, gpu_settings_restored, why_no_gpu
from diffusion_lab.run.parts import quieten_lightning
from diffusion_lab.run.record import git_commit, write_json
from tests.forked import ROOT
from tests.gpu_check import commands, correctness, speed  # noqa: F401  (they add their checks)
from tests.gpu_check.place import ALONE, BESIDE, FAILED, HERE, SKIPPED, Check, Place, Row


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


def perform(place: Place, check: Check) -> list[Row]:
    """The rows of a check; an error is one too."""
    rows, began = [], time.perf_counter()
    try:
        for row in check.work(place):
            row.seconds, began = time.perf_counter() - began, time.perf_counter()
            rows.append(row)
    except Exception as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        spent = time.perf_counter() - began
        rows.append(Row(check.what, found, "", FAILED, spent, traceback.format_exc()))
    for row in rows:
        print(f"{row.verdict:>10}  {row.what}: {row.found}", flush=True)
    return rows


def in_order(
    place: Place, checks: Sequence[Check], deadline: float, note: Callable[[], None]
) -> None:
    """One check after the other, as long as there is time for half of it."""
    for check in checks:
        left = deadline - time.monotonic()
        if left < check.seconds / 2:
            place.rows.append(Row(check.what, "no time was left", verdict=SKIPPED))
        else:
            with time_limit(left), gpu_settings_restored():
                place.rows += perform(place, check)
        note()


def run_all(place: Place, only: Sequence[str], deadline: float, note: Callable[[], None]) -> None:
    """Processes side by side and the quiet checks beside them, then what is timed, alone."""
    beside, here, alone = (
        [check for check in kind if not only or any(word in check.what for word in only)]
        for kind in (BESIDE, HERE, ALONE)
    )
    with ThreadPoolExecutor(2 if place.tiny else len(BESIDE)) as pool:
        running = [pool.submit(perform, place, check) for check in beside]
        in_order(place, here, deadline, note)
        for process in running:
            place.rows += process.result()
            note()
    in_order(place, alone, deadline, note)


def report(place: Place, out: Path, about: dict[str, Any]) -> None:
    """Write what is known so far."""
    write_json(out / "gpu_check.json", about | {"rows": [asdict(row) for row in place.rows]})
    data = "the full MNIST" if place.full else "without the full MNIST"
    lines = [
        f"{about['device']}, driver {about['driver']}, torch {about['versions']['torch']}, Python "
        f"{about['python']}, commit {about['commit']}, {about['seconds']:.0f} s, {data}",
        "",
        "| check | found | goal | verdict | s |",
        "|---|---|---|---|---|",
    ]
    for row in place.rows:
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


def main() -> None:
    """Parse the command line, run the checks, say how many failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu_check",
        description=tests.gpu_check.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the two files")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing after these")
    parser.add_argument("--only", nargs="*", default=[], help="checks with such a word in the name")
    given = parser.parse_args()
    device = torch.device("cpu") if given.tiny else torch.device("cuda", 0)
    try:
        if not given.tiny and (why := why_no_gpu()):
            raise UserError(f"{why}; --tiny runs the checks on the CPU")
        check_gpu(device)
    except UserError as error:
        sys.exit(f"error: {error}")
    quieten_lightning()
    logging.getLogger("diffusion_lab").setLevel(logging.WARNING)
    began = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    about = machine(device) | {"driver": driver(), "commit": commit(), "tiny": given.tiny}
    about |= {"system": platform.platform(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    images = Path(os.environ.get("DIFFUSION_LAB_DATA", "data"), "MNIST/raw/train-images-idx3-ubyte")
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(device, given.tiny, Path(scratch), images.is_file())

        def note() -> None:
            report(place, given.out, about | {"seconds": time.monotonic() - began})

        run_all(place, given.only, began + 60 * given.minutes, note)
        note()
    failed = sum(row.verdict == FAILED for row in place.rows)
    print(f"{len(place.rows)} rows, {failed} failed; {given.out / 'gpu_check.md'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

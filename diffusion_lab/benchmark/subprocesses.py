"""Child processes, for measurements that need a fresh Python process."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from diffusion_lab.benchmark.settings import Settings


def child_environment(settings: Settings) -> dict[str, str]:
    """Return the environment variables of a child process.

    They set the import path of this process and `settings.threads` CPU threads.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    without = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    threads = str(settings.threads)
    return without | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def fail(arguments: Sequence[str], errors: str) -> NoReturn:
    """Raise RuntimeError with a child's arguments and the last lines of its stderr, `errors`."""
    tail = "\n".join(errors.strip().splitlines()[-20:])
    raise RuntimeError(f"python {' '.join(arguments)} failed:\n{tail}")


def last_json(settings: Settings, arguments: Sequence[str]) -> dict[str, Any]:
    """Run `python <arguments>` and return the JSON object in its last printed line."""
    process = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=settings.scratch,
        env=child_environment(settings),
    )
    if process.returncode:
        fail(arguments, process.stderr)
    content: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return content

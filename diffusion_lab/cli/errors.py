"""Report errors of a command as one line and an exit code."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from diffusion_lab.config.error_message import chain, one_line
from diffusion_lab.errors import Diverged
from diffusion_lab.system.signals import Stopped, signal_handlers

_INSTALLED = "diffusion-lab-"
"""Beginning of the names of the installed commands."""
_COMMANDS = (
    "train",
    "sample",
    "export",
    "edit",
    "evaluate",
    "diagnose",
    "compare",
    "tradeoff",
    "explain",
    "likelihood",
    "train_extractor",
    "benchmark",
    "ladder",
)


def line_of(error: Exception) -> str | None:
    """Return the one-line message of an error, or None if a traceback should be shown.

    A traceback is shown for unexpected errors, and with DIFFUSION_LAB_TRACEBACK=1 for all errors.
    """
    wanted = os.environ.get("DIFFUSION_LAB_TRACEBACK") or "0"  # set but empty means 0
    line = one_line(error) if wanted == "0" else None
    return None if line is None else as_started(line)


def as_started(line: str) -> str:
    """Name the other commands in `line` as the running command was started.

    The messages name scripts and files in docs/, which an installed package does not have.
    """
    if not Path(sys.argv[0]).name.startswith(_INSTALLED):
        return line
    line = line.replace("; see docs/extending.md", "").replace(", see docs/extending.md", "")

    def installed(found: re.Match[str]) -> str:
        return _INSTALLED + found[1].replace("_", "-") if found[1] in _COMMANDS else found[0]

    return re.sub(r"(?:python scripts/|scripts/|\b)(\w+)\.py\b", installed, line)


def fail(line: str, error: BaseException | None = None) -> NoReturn:
    """Print `error: <line>` and exit: with code 3 if `error` is a diverged training, else 2."""
    print(f"error: {line}", file=sys.stderr)
    links = [] if error is None else chain(error)
    sys.exit(3 if any(isinstance(link, Diverged) for link in links) else 2)


@contextmanager
def cli_errors() -> Iterator[None]:
    """Report exceptions and signals within this context as one line and an exit code."""
    try:
        with signal_handlers():
            yield
        sys.stdout.flush()
    except BrokenPipeError:  # such as --help | head: nobody reads the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)
    except Stopped:
        print("interrupted", file=sys.stderr)
        raise
    except Exception as error:
        if (line := line_of(error)) is None:
            raise
        fail(line, error)

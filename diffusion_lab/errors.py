"""Exceptions for mistakes that the user can correct, and the message for an unknown name."""

import os
import sysconfig
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

_FOLDERS = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_NOT_OF_THE_USER = (
    *(f"{folder}{os.sep}" for folder in (*_FOLDERS, Path(__file__).parent)),
    "<",  # frozen modules, code from strings
)
"""Beginnings of the file names of Python, installed packages and this package."""


class UserError(Exception):
    """A mistake in the input that the user can correct.

    The message is one line: what was wrong, what was expected, what to type. The command line
    prints the message without a traceback and exits with code 2.
    """


class Diverged(UserError):
    """A training reached non-finite losses or weights; the command line exits with code 3."""


def near(name: str, known: Sequence[str], most: int = 3) -> list[str]:
    """Return at most `most` known names that resemble a mistyped name, the most similar first."""
    lower = {other.lower(): other for other in known}
    found = get_close_matches(name.lower(), lower, n=most, cutoff=0.6)
    # then known names that contain the given one, such as flow_heun for flow
    found += [k for k in lower if k not in found and len(name) > 2 and name.lower() in k]
    return [lower[key] for key in found[:most]]


def unknown_name(setting: str, name: str, known: Sequence[str]) -> str:
    """Return the error message for an unknown `setting=name`.

    The message suggests the known names that resemble `name`, or lists all names if there are none.
    """
    if meant := near(name, known):
        return f"{setting}={name} is unknown: did you mean {' or '.join(meant)}?"
    return f"{setting}={name} is unknown: choose from {', '.join(known)}"


def reason_of(error: BaseException) -> str:
    """Return the type of an exception and the first line of its text, at most 100 characters."""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text[:100]}" if text else type(error).__name__


def failure(error: BaseException) -> str:
    """Return " failed at <file>:<line>: <type>: <text>" for an exception in the user's code.

    The place is that of the innermost frame outside Python, installed packages and this package. It
    is left out if there is none.
    """
    reason = " ".join(str(error).split()) or "no reason given"
    return f" failed{_place(error)}: {type(error).__name__}: {reason}"


def _place(error: BaseException) -> str:
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_NOT_OF_THE_USER):
            return f" at {short_path(frame.filename)}:{frame.lineno}"
    return ""


def short_path(file: str | Path) -> Path:
    """Return a path relative to the working folder if it lies there, else unchanged."""
    path = Path(file)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

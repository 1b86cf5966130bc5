"""Files and folders that are there whole or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusion_lab.errors import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it takes the place of `path`.

    Makes the folder if need be. On an error nothing is left behind and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path)
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.filename in (None, str(part)):  # a write does not say which file it was
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it becomes `path`.

    Raises UserError, before it gives one, if `path` holds something or cannot be made.
    """
    path = Path(path).absolute()
    if path.is_file():
        raise UserError(f"out={path} is a file: give a new folder, out=<folder>")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"out={path} already holds something: give a new folder, out=<folder>")
    part = _beside(path)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"out={path} cannot be made: {error.strerror}") from error
    try:
        yield part
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _beside(path: Path) -> Path:
    # a name of its own: two processes may write the same file at the same time
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")

"""Atomic writes: a file or folder appears complete or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusion_lab.errors import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield the path of a temporary file to write; on success, that file replaces `path`.

    Creates the parent folder. On an error the temporary file is removed and `path` is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path)
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.filename in (None, str(part)):  # a failed write does not name its file
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success the folder is renamed to `path`.

    Raises UserError at the start if `path` is a file, is not empty or cannot be created.
    """
    path = Path(path).absolute()
    if path.is_file():
        raise UserError(f"out={path} is a file: type the name of a new folder, out=<folder>")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"out={path} is not empty: type the name of a new folder, out=<folder>")
    part = _beside(path)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"out={path} cannot be created ({error.strerror}): type another folder, out=<folder>"
        ) from error
    try:
        yield part
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _beside(path: Path) -> Path:
    # a unique name: two processes may write the same file at the same time
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")

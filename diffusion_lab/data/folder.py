"""The data folder and the user's cache: their location, and the check before files are written."""

import os
from pathlib import Path

from diffusion_lab.data.mnist.files import TORCHVISION_CLASS
from diffusion_lab.errors import UserError

DEFAULT_DATA_DIR = Path("data")
"""The data folder if the user gives none."""
BUNDLED = "bundled"
"""Subfolder with the cached bundled digits."""
REFERENCES = "references"
"""Subfolder with cached reference statistics."""
_OURS = {
    *(BUNDLED, REFERENCES, "SVHN"),
    *("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    *("cifar-100-python", "cifar-100-python.tar.gz"),
}
"""Names of entries by which a data folder is recognised."""


def find_data_dir(named: str | Path | None) -> Path:
    """Return the given data folder, or DEFAULT_DATA_DIR for None and an empty name."""
    return Path(named).expanduser() if named else DEFAULT_DATA_DIR


def user_cache() -> Path:
    """Return the default folder of all caches: diffusion_lab in ~/.cache or XDG_CACHE_HOME."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "diffusion_lab"


def is_named(folder: str | Path | None) -> bool:
    """Return True if the user named a data folder.

    The bundled digits replace missing MNIST files only if the user named no folder.
    """
    return bool(folder)


def may_write(folder: Path) -> bool:
    """Return True if files may be written into a folder: it is new, empty or a data folder.

    A data folder is recognised by files or subfolders that this project or torchvision creates. Any
    other folder holds files of the user and is never written to.

    Raises:
        UserError: if the folder cannot be listed.

    """
    try:
        if not folder.is_dir():  # a file in its place fails at the write
            return True
        entries = _visible(folder)
        if not entries or _OURS & {entry.name for entry in entries}:
            return True
        return any(_holds_data(e) for e in entries if e.name in TORCHVISION_CLASS.values())
    except OSError as error:
        raise look_error(folder, error) from error


def contents(folder: Path) -> str:
    """Summarise the contents of a folder: "17 entries (a.png, b.png, c.png, ...)"."""
    names = sorted(entry.name for entry in _visible(folder))
    listed = ", ".join([*names[:3], *["..."] * (len(names) > 3)])
    return f"{len(names)} entr{'y' if len(names) == 1 else 'ies'} ({listed})"


def look_error(folder: Path, error: OSError) -> UserError:
    """Return the error for a folder that cannot be read."""
    return UserError(
        f"cannot read the folder {folder} ({error.strerror}): check its permissions, "
        "or type another folder, paths.data_dir=<folder>"
    )


def _holds_data(folder: Path) -> bool:
    """Return True if `folder`, named like a data set such as MNIST, may hold that data set.

    A folder may hold it if it has a subfolder `raw` or is empty; other contents belong to the user.
    A file of that name is left to torchvision, which reports it.
    """
    if not folder.is_dir():
        return True
    return (folder / "raw").exists() or not _visible(folder)


def _visible(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]

"""The data folder: which one it is, and whether files may be written into it."""

from pathlib import Path

from diffusion_lab.data.mnist.files import TORCHVISION_CLASS
from diffusion_lab.errors import UserError

DEFAULT_DATA_DIR = Path("data")
"""Used where no folder was named."""
BUNDLED = "bundled"
"""The subfolder with the cached bundled digits."""
REFERENCES = "references"
"""The subfolder with cached reference statistics."""


def find_data_dir(named: str | Path | None) -> Path:
    """Return the named folder, or the default one for None and an empty name."""
    return Path(named).expanduser() if named else DEFAULT_DATA_DIR


def is_named(folder: str | Path | None) -> bool:
    """Return whether the user named a data folder; then nothing may stand in for its images."""
    return bool(folder)


def may_write(folder: Path) -> bool:
    """Return whether files may be put into a folder: it is new, empty, or a data folder of ours.

    A data folder of ours holds a subfolder that this project or torchvision makes. A folder of
    anything else belongs to the user.

    Raises:
        UserError: if the folder cannot be listed.

    """
    try:
        if not folder.is_dir():  # where a file is in the way, writing says so
            return True
        entries = _visible(folder)
        if not entries or {BUNDLED, REFERENCES} & {entry.name for entry in entries}:
            return True
        return any(_holds_data(e) for e in entries if e.name in TORCHVISION_CLASS.values())
    except OSError as error:
        raise look_error(folder, error) from error


def contents(folder: Path) -> str:
    """Return what a folder holds, for a message: "17 entries (a.png, b.png, c.png, ...)"."""
    names = sorted(entry.name for entry in _visible(folder))
    listed = ", ".join([*names[:3], *["..."] * (len(names) > 3)])
    return f"{len(names)} entr{'y' if len(names) == 1 else 'ies'} ({listed})"


def look_error(folder: Path, error: OSError) -> UserError:
    """Return the message for a folder that cannot be read."""
    return UserError(
        f"cannot look into {folder} ({error.strerror}): check its permissions, "
        "or give another folder, for example paths.data_dir=<folder>"
    )


def _holds_data(folder: Path) -> bool:
    """Return whether a folder named MNIST is torchvision's (or is to be), not one of pictures."""
    if not folder.is_dir():
        return True
    return (folder / "raw").exists() or not _visible(folder)


def _visible(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]

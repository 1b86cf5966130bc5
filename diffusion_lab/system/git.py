"""Git commit of this project's code, for the record of a run."""

import subprocess
from pathlib import Path


def git_commit() -> str | None:
    """Return the commit of this project's checkout; None if the project is an installed wheel.

    The suffix "+changes" means that tracked files have uncommitted changes.
    """
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file():  # an installed wheel has no checkout
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None

"""The commit that a run was made by."""

import subprocess
from pathlib import Path


def git_commit() -> str | None:
    """The commit of the checkout this code runs from, "+changes" if it was edited; else None."""
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file():  # an installed wheel is in nobody's checkout
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

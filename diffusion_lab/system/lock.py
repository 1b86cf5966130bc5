"""Lock of a run folder, so that only one process at a time uses the folder.

Imports no torch, because the command line locks a folder before it writes anything into it.
"""

import errno
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from diffusion_lab.errors import UserError

log = logging.getLogger(__name__)

NAME = ".lock"
_RANKS = (
    "RANK",
    "LOCAL_RANK",
    "SLURM_PROCID",
    "JSM_NAMESPACE_RANK",
)  # the variables Lightning reads
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def is_first_process() -> bool:
    """Return True in a run of one process, and on rank 0 of a distributed run."""
    return os.environ.get(next((name for name in _RANKS if name in os.environ), ""), "0") == "0"


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Lock a run folder within the context; UserError at once if another process holds the lock.

    Creates the folder if needed. The operating system's lock (flock; LockFile on Windows) ends with
    the process, even after a crash; the lock file stays. Processes on other machines are excluded
    if the file system shares locks. NFS shares them, but NFSv4 keeps the lock for about 90 seconds
    after a crash; Lustre shares them only if mounted with `flock`. On a file system without locks,
    a warning is logged and the folder is not locked. In a distributed run only rank 0 locks the
    folder. A process may lock a folder twice.
    """
    if not is_first_process():
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / NAME
    # a soft lock would survive a crash
    lock = FileLock(path, timeout=0, fallback_to_soft=False, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{run_dir} is in use by another process{_holder(path)}: wait for that process or end "
            "it, or choose another run folder"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning(
            "%s: no locks on this file system; make sure that no second run uses this folder",
            run_dir,
        )
        path.touch()
    try:
        with suppress(OSError):  # a full disk is reported by the first real write
            path.write_text(f"{os.getpid()} {platform.node()}\n")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        pid, host = path.read_text().split()
    except (OSError, ValueError):
        return ""
    return f" ({pid} on {host})"


def check_still_there(run_dir: Path) -> None:
    """Raise UserError if a locked run folder was removed, even if a new one replaced it since."""
    if not (run_dir / NAME).exists():
        raise UserError(
            f"{run_dir} was removed during the run, so its files are lost: start the run again"
        )

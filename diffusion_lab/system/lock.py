"""Lock of a run folder: one process at a time.

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
    """Return True in a single-process run and on rank 0 of a distributed one."""
    return os.environ.get(next((name for name in _RANKS if name in os.environ), ""), "0") == "0"


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Lock a run folder, creating it if needed; UserError at once if another process has it.

    The operating system's lock (flock; LockFile on Windows) ends with the process, even after a
    crash; the lock file stays. Other machines are excluded if the file system shares locks: NFS
    does (after a crash the lease must expire, about 90 seconds for NFSv4), Lustre only if mounted
    with `flock`. A file system without locks gets a warning and no lock. In a distributed run only
    rank 0 locks, and it may lock the same folder twice.
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
            f"{run_dir} is in use by another process{_holder(path)}: wait for it or end it, or "
            "give another run folder"
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
    """Raise UserError if a locked run folder was removed, even if it was created again since."""
    if not (run_dir / NAME).exists():
        raise UserError(
            f"{run_dir} was removed while the run used it: its files are lost, start the run again"
        )

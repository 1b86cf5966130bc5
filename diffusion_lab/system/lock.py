"""One process at a time in a run folder, and never one that is no longer there.

Imports no torch: the command line locks a folder before anything is written into it.
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
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # as Lightning looks for it
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def is_first_process() -> bool:
    """Return True in the only process of a run, or the first of a distributed one."""
    return os.environ.get(next((name for name in _RANKS if name in os.environ), ""), "0") == "0"


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run folder, made if need be; UserError at once if another process does.

    The kernel's lock (flock, on Windows LockFile) ends with the process, however that ends; the
    file stays. It excludes other machines where the file system passes it on: NFS does, after a
    machine's crash once its lease ran out (NFSv4: about 90 seconds); Lustre only if mounted with
    `flock`. Where there are no locks at all this warns and goes on. Only the first process of a
    distributed run takes it; that one may take it twice.
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
            "give a run folder of its own"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s: no locks on this file system, see that no second run uses it", run_dir)
        path.touch()
    try:
        with suppress(OSError):  # a full disk is reported by what needs the room
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
    """Raise UserError if a locked run folder was removed, also if it was made again since."""
    if not (run_dir / NAME).exists():
        raise UserError(
            f"{run_dir} was removed while the run used it: what it held is lost, start again"
        )

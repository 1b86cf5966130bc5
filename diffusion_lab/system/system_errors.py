"""One-line messages for system errors: disk full, permission denied, out of memory."""

import errno

_FILES = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EFBIG: "the file size limit is reached (ulimit -f): raise it, or write to another disk",
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR),
        "give a folder that can be written",
    ),
    errno.EIO: "the disk has failed: write to another disk",
}
_ELSEWHERE = "paths.log_dir=<folder> for a run, out=<folder> for other commands"
# torch raises a plain RuntimeError for both
_FULL_DISK = ("PytorchStreamWriter failed", "inline_container")
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


def fault(error: BaseException) -> str | None:
    """Return a one-line message for a system error, or None for any other exception.

    In a chain of exceptions, the system error that was raised first counts, because cleaning up
    after it often fails with another system error.
    """
    line: str | None = None
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        line = _line(link) or line
        link = link.__cause__ or link.__context__
    return line


def no_memory(error: BaseException) -> bool:
    """Return True for an out-of-memory error.

    Code that reads files calls this, because a file that does not fit into memory is not damaged.
    """
    allocator = isinstance(error, RuntimeError) and any(s in str(error) for s in _NO_MEMORY)
    return allocator or isinstance(error, MemoryError)


def _line(error: BaseException) -> str | None:
    text = str(error)
    if isinstance(error, OSError) and error.errno in _FILES:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}: {_FILES[error.errno]} ({_ELSEWHERE})"
    if isinstance(error, RuntimeError) and any(sign in text for sign in _FULL_DISK):
        return f"a file could not be written; the disk may be full: {_FILES[errno.ENOSPC]}"
    if no_memory(error):
        return (
            "out of memory: lower batch_size (data.batch_size= in training), num_samples or the "
            f"size of the network ({' '.join(text.split())[:200] or type(error).__name__})"
        )
    return None

"""Download of the published files, with several mirrors, deadlines and atomic replacement.

This replaces torchvision's download, which waits without limit for a silent server and leaves
incomplete files if it is interrupted.
"""

import gzip
import io
import logging
import queue
import shutil
import threading
import time
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout

from diffusion_lab.data.mnist.files import IdxFile, torchvision_resources
from diffusion_lab.data.mnist.idx import idx_fault, idx_size, md5_of
from diffusion_lab.errors import UserError

log = logging.getLogger(__name__)

READ_TIMEOUT = 15.0  # seconds without any data from a server
FILE_DEADLINE = 300.0  # seconds for one file from one mirror, even if data keeps arriving
LOCK_TIMEOUT = 3600.0  # seconds to wait for another process that is downloading
CHUNK = 1 << 16


class DownloadError(Exception):
    """Raised if a download failed on all mirrors; the message is one line with all reasons."""


def download_missing(name: str, files: Sequence[IdxFile]) -> None:
    """Download the missing files of a data set, in one process at a time.

    Args:
        name: mnist, fashion_mnist or kmnist.
        files: the four files of the data set. Existing files are never changed.

    Raises:
        DownloadError: if no mirror has a correct copy of a file.
        UserError: if the folder cannot be written.

    """
    folder = files[0].path.parent
    mirrors, packed_md5 = torchvision_resources(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / ".download.lock", timeout=LOCK_TIMEOUT):
            # check again: another process may have downloaded them while this one waited
            for file in files:
                if file.find() is None:
                    _put(_fetch(file, packed_md5[file.path.name], mirrors), file.path)
    except Timeout as error:
        raise UserError(
            f"another process has held the lock {error.lock_file} for {LOCK_TIMEOUT / 60:.0f} "
            "minutes: stop that process, then start again"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder} ({error.strerror or error}): "
            "type paths.data_dir=<a folder that can be written>"
        ) from error


def _put(data: bytes, path: Path) -> None:
    """Write `data` to a temporary file, then rename the file to `path` atomically."""
    partial = path.parent.parent / ".partial"
    # One fixed folder under the lock, so that leftovers of a killed process are removed.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        (partial / path.name).write_bytes(data)
        (partial / path.name).replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fetch(file: IdxFile, packed_md5: str, mirrors: list[str]) -> bytes:
    """Return the unpacked bytes of a file from the first mirror with a correct copy.

    That mirror is moved to the front of `mirrors`, so that a silent mirror is waited for only once.
    Raises DownloadError if no mirror has a correct copy.
    """
    failures = []
    for mirror in list(mirrors):
        url = f"{mirror}{file.path.name}.gz"
        log.info("downloading %s", url)
        start = time.monotonic()
        try:
            packed = _get_within_deadline(url, limit=idx_size(file.shape) + CHUNK)
            data = _unpack(packed, packed_md5, file)
        except (OSError, EOFError, ValueError, HTTPException, zlib.error) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            failures.append(f"{urlsplit(url).netloc}: {reason}")
            log.info("download of %s failed: %s", url, reason)
            continue
        log.info("downloaded %s in %.1f s", file.path.name, time.monotonic() - start)
        mirrors.remove(mirror)
        mirrors.insert(0, mirror)
        return data
    raise DownloadError(f"{file.path.name}: {'; '.join(failures)}")


def _unpack(packed: bytes, packed_md5: str, file: IdxFile) -> bytes:
    """Return the unpacked bytes of a .gz file; ValueError for a wrong hash, size or header."""
    if md5_of(packed) != packed_md5:
        raise ValueError(f"the downloaded file ({len(packed)} bytes) has the wrong MD5")
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
        data = stream.read(idx_size(file.shape) + 1)
    if fault := idx_fault(data, len(data), file.shape):
        raise ValueError(f"the unpacked file {fault}")
    if file.md5 is not None and md5_of(data) != file.md5:
        raise ValueError("the unpacked file has the wrong MD5")
    return data


def _get_within_deadline(url: str, limit: int) -> bytes:
    """Return the content of the URL, or raise TimeoutError after FILE_DEADLINE seconds.

    `limit` is the largest accepted size in bytes. The request runs in its own thread, because a
    socket's timeout limits single reads only. It limits neither the look-up of the host nor the
    total time of a server that sends its headers byte by byte.
    """
    deadline = time.monotonic() + FILE_DEADLINE
    outcome: queue.Queue[bytes | Exception] = queue.Queue()

    def work() -> None:
        try:
            outcome.put(_get(url, limit, deadline))
        except Exception as error:  # raised again in the waiting thread
            outcome.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        result = outcome.get(timeout=FILE_DEADLINE)
    except queue.Empty:
        raise TimeoutError(f"the download was not done after {FILE_DEADLINE:g} s") from None
    if isinstance(result, Exception):
        raise result
    return result


def _get(url: str, limit: int, deadline: float) -> bytes:
    request = Request(url, headers={"User-Agent": "diffusion_lab"})
    data = bytearray()
    with urlopen(request, timeout=READ_TIMEOUT) as response:
        # read1 returns the available bytes; read would wait for a whole chunk
        while chunk := response.read1(CHUNK):
            data += chunk
            if len(data) > limit:
                raise ValueError(f"the file has more than the expected {limit} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the download was not done after {FILE_DEADLINE:g} s")
    return bytes(data)

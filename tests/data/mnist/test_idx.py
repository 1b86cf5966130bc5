import tracemalloc

import numpy as np
import pytest

from diffusion_lab.data.mnist.idx import read_idx
from diffusion_lab.errors import UserError

SHAPE = (3, 28, 28)
ARRAY = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
HEAD = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in SHAPE)
GOOD = HEAD + ARRAY.tobytes()
MD5 = "0" * 32

WRONG = {
    "empty": (b"", "truncated"),
    "header_only": (HEAD, "truncated"),
    "truncated": (GOOD[:-1], "truncated: 2367 bytes, expected 2368"),
    "too_large": (GOOD + b"\0", "too large"),
    "magic": (b"\x1f\x8b\x08\x00" + GOOD[4:], "magic number 1f8b0800, expected 00000803"),
    "signed": (b"\0\0\x09\x03" + GOOD[4:], "magic"),
    "dimensions": (b"\0\0\x08\x02" + GOOD[4:], "magic"),
    "shape": (
        HEAD[:4] + HEAD[12:16] + HEAD[8:12] + HEAD[4:8] + GOOD[16:],
        "28x28x3, expected 3x28",
    ),
    "huge": (HEAD[:4] + b"\xff" * 12 + GOOD[16:], "4294967295x4294967295x4294967295"),
}


def test_reads_a_valid_file(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(GOOD)
    array = read_idx(path, SHAPE)
    assert array.dtype == np.uint8
    assert np.array_equal(array, ARRAY)
    assert array.flags.writeable


@pytest.mark.parametrize("kind", WRONG)
def test_an_invalid_file_is_reported_and_not_changed(tmp_path, kind):
    data, message = WRONG[kind]
    path = tmp_path / "images"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(UserError, match=message) as raised:
        read_idx(path, SHAPE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    text = str(raised.value)
    assert str(path) in text
    assert "move it away" in text
    assert "\n" not in text
    assert path.read_bytes() == data


def test_a_file_that_is_too_large_is_rejected_before_reading(tmp_path):
    path = tmp_path / "images"
    with path.open("wb") as file:
        file.write(HEAD)
        file.truncate(1 << 33)  # 8 GiB of nothing
    tracemalloc.start()
    with pytest.raises(UserError, match="too large"):
        read_idx(path, SHAPE)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_wrong_hash(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(GOOD)
    with pytest.raises(UserError, match=f"MD5 .* expected {MD5}"):
        read_idx(path, SHAPE, MD5)


def test_a_missing_file_and_a_folder_in_its_place(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        read_idx(tmp_path / "nothing", SHAPE)
    with pytest.raises(UserError, match="is not a file"):
        read_idx(tmp_path, SHAPE)

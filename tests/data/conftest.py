"""Fixtures: a tiny MNIST in the published format, and a local server as its mirrors."""

import contextlib
import gzip
import hashlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from diffusion_lab.data.mnist import download
from diffusion_lab.data.mnist import files as published

NUM_TRAIN, NUM_TEST = 60, 20
MIRRORED = ("MNIST", "FashionMNIST", "KMNIST")


def idx_bytes(array: np.ndarray) -> bytes:
    """Encode an array in the IDX format, independently of the package."""
    head = bytes([0, 0, 8, array.ndim])
    return head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def tiny_files(num_train: int = NUM_TRAIN, num_test: int = NUM_TEST) -> dict[str, bytes]:
    random = np.random.default_rng(7)
    files = {}
    for split, count in (("train", num_train), ("t10k", num_test)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        files[f"{split}-images-idx3-ubyte"] = idx_bytes(images)
        files[f"{split}-labels-idx1-ubyte"] = idx_bytes(labels)
    return files


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Keep tests off real mirrors: port 9 of this machine refuses connections at once."""
    monkeypatch.setenv("no_proxy", "*")
    for name in MIRRORED:
        monkeypatch.setattr(getattr(torchvision.datasets, name), "mirrors", ["http://127.0.0.1:9/"])


@dataclass
class TinySet:
    files: dict[str, bytes]
    packed: dict[str, bytes]

    def write(self, data_dir: Path, folder: str = "MNIST") -> Path:
        raw = data_dir / folder / "raw"
        raw.mkdir(parents=True)
        for name, data in self.files.items():
            (raw / name).write_bytes(data)
        return raw


@pytest.fixture
def tiny(monkeypatch) -> TinySet:
    """Replace the published data sets by 60 + 20 random images."""
    files = tiny_files()
    packed = {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in files.items()}
    monkeypatch.setattr(published, "NUM_TRAIN", NUM_TRAIN)
    monkeypatch.setattr(published, "NUM_TEST", NUM_TEST)
    hashes = {name: md5(data) for name, data in files.items()}
    monkeypatch.setattr(published, "UNPACKED_MD5", {"mnist": hashes})
    resources = [(name, md5(data)) for name, data in packed.items()]
    for name in MIRRORED:
        monkeypatch.setattr(getattr(torchvision.datasets, name), "resources", resources)
    return TinySet(files, packed)


@dataclass
class Mirrors:
    address: str
    requests: Counter

    def use(self, monkeypatch, *behaviours: str, of: str = "MNIST") -> None:
        urls = [f"{self.address}/{behaviour}/" for behaviour in behaviours]
        monkeypatch.setattr(getattr(torchvision.datasets, of), "mirrors", urls)


@pytest.fixture
def mirrors(tiny, monkeypatch):
    """Start a local server; the first part of the path selects its behaviour."""
    monkeypatch.setattr(download, "READ_TIMEOUT", 0.3)
    monkeypatch.setattr(download, "FILE_DEADLINE", 0.8)
    requests: Counter = Counter()
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            _, behaviour, name = self.path.split("/")
            requests[behaviour, name] += 1
            data = tiny.packed[name]
            if behaviour == "forbidden":
                self.send_error(403)
            elif behaviour == "gone":
                self.send_error(404)
            elif behaviour == "truncated":
                self.answer(data[: len(data) // 2], announced=len(data))
            elif behaviour == "wrong":
                self.answer(b"<html>please log in</html>")
            elif behaviour == "endless":
                self.answer(b"\0" * (len(data) + 1_000_000))
            elif behaviour == "silent":
                stop.wait(20)
            elif behaviour == "trickling":
                self.trickle(b"HTTP/1.0 200 OK\r\n\r\n", data)
            elif behaviour == "trickling_headers":
                self.trickle(b"", b"HTTP/1.0 200 OK\r\nX-Slow: " + b"y" * 1000)
            elif behaviour == "slow":
                time.sleep(0.2)
                self.answer(data)
            else:
                self.answer(data)

        def answer(self, data, announced=None):
            self.send_response(200)
            self.send_header("Content-Length", str(announced or len(data)))
            self.end_headers()
            self.wfile.write(data)

        def trickle(self, at_once, slowly):
            self.wfile.write(at_once)
            for byte in slowly:
                if stop.wait(0.05):
                    return
                self.wfile.write(bytes([byte]))

        def log_message(self, *args):
            pass

        def handle(self):
            with contextlib.suppress(OSError):  # the client closes the connection, as expected
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield Mirrors(f"http://127.0.0.1:{server.server_port}", requests)
    stop.set()
    server.shutdown()
    server.server_close()

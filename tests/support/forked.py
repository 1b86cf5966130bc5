"""Scripts in processes of their own that need not pay for the imports of torch again.

Each is forked from a server that has made them. What a process costs from its very start, and what
it imports, is asked of real ones.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).parents[2]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.support.preloaded"])


def _run(argv: list[str], cwd: str, environment: dict[str, str], *outputs: Connection) -> None:
    for descriptor, output in enumerate(outputs, start=1):
        os.dup2(output.fileno(), descriptor)
        output.close()
    sys.stdout.reconfigure(line_buffering=True)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    sys.path.insert(0, str(Path(argv[0]).parent))
    threading.excepthook = threading.__excepthook__
    runpy.run_path(argv[0], run_name="__main__")


class Forked:
    """scripts/<name>.py with these arguments; used as a subprocess.Popen that reads text is."""

    def __init__(
        self, name: str, *arguments: str, cwd: Path | None = None, **environment: str
    ) -> None:
        argv = [str(ROOT / "scripts" / f"{name}.py"), *arguments]
        env = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | environment
        pipes = [SERVER.Pipe(duplex=False) for _ in range(2)]
        self._process = SERVER.Process(
            target=_run, args=(argv, str(cwd or Path.cwd()), env, *(write for _, write in pipes))
        )
        self._process.start()
        files: list[TextIO] = []
        for read, write in pipes:
            write.close()
            files.append(os.fdopen(os.dup(read.fileno())))
            read.close()
        self.stdout, self.stderr = files
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired("a script", timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """What is left of (standard output, standard error), and wait for the end."""
        ends = time.monotonic() + timeout
        read: dict[TextIO, str] = {}
        readers = [
            threading.Thread(target=lambda f=file: read.update({f: f.read()}), daemon=True)
            for file in (self.stdout, self.stderr)
            if not file.closed
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(max(0, ends - time.monotonic()))
        self.wait(max(0, ends - time.monotonic()))
        out, err = (read.get(file, "") for file in (self.stdout, self.stderr))
        self.stdout.close()
        self.stderr.close()
        return out, err


def run(
    name: str, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The script, to its end."""
    process = Forked(name, *arguments, cwd=cwd, **environment)
    try:
        out, err = process.communicate()
    finally:
        process.kill()
    return subprocess.CompletedProcess([name, *arguments], process.wait(), out, err)

"""Page faults of a process that frees large blocks and wants them again, counted by the system."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")

LOOP = """
import resource, torch
from diffusion_lab.system import malloc as freed_memory
for _ in range({times}):
    freed_memory.keep_freed_memory()
def step():
    return [torch.ones(2**24) for _ in range(3)]
for _ in range(5):  # malloc finds places for all
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, times, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    ended = subprocess.run(
        [sys.executable, "-c", LOOP.format(times=times)],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(ended.stdout)


def test_blocks_come_back_without_page_faults():
    assert faults(times=0) >= 10 * 3 * 32  # of 64 MiB; 2 MiB a fault where huge pages are on
    # the system may take a block back in between, which is no doing of malloc's
    assert min(faults(times=1) for _ in range(3)) < 100


def test_a_malloc_that_somebody_tuned_is_left_alone():
    assert faults(times=1, MALLOC_ARENA_MAX="2") >= 10 * 3 * 32


def test_commands_keep_memory(typed, monkeypatch):
    from diffusion_lab import cli

    called = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: called.append(True))
    typed("explain", "model=flow")
    assert called == [True]

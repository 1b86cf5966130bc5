"""Page faults of a process that frees and reallocates large blocks, counted by the system."""

import importlib
import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")

LOOP = """
import resource, torch
from diffusion_lab.system import malloc
for _ in range({times}):
    malloc.keep_freed_memory()
def step():
    return [torch.ones(2**24) for _ in range(2)]
for _ in range(3):  # malloc finds places for all
    step()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(8)))  # the system may reclaim a block before a step
"""
LEAST = 2 * 32
"""Faults of a step whose two blocks of 64 MiB are new, with huge pages of 2 MiB."""


def faults(*, times, **environment):
    """Return the smallest number of page faults in a step."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    ended = subprocess.run(
        [sys.executable, "-c", LOOP.format(times=times)],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(ended.stdout)


@pytest.mark.slow
def test_freed_blocks_are_reused_without_page_faults():
    assert faults(times=0) >= LEAST
    assert faults(times=1) < LEAST // 2


@pytest.mark.slow
def test_a_malloc_tuned_by_the_environment_is_not_changed():
    assert faults(times=1, MALLOC_ARENA_MAX="2") >= LEAST


@pytest.mark.slow
def test_commands_keep_freed_memory(typed, monkeypatch):
    called = []
    # import_module, as a function of this name hides the module
    run_command = importlib.import_module("diffusion_lab.cli.run_command")
    monkeypatch.setattr(run_command, "keep_freed_memory", lambda: called.append(True))
    typed("explain", "model=flow")
    assert called == [True]

"""The number of threads: chosen, logged, saved with the run, and restored."""

import logging

import pytest
import torch

from diffusion_lab import compose_config, train
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY
from tests.support.poison import checkpoint

RUN = (*TINY[:-2], "callbacks=minimal", "logger=csv", "network.channels=[4,4]")


def headline(caplog):
    (line,) = (r.message for r in caplog.records if "parameters on" in r.message)
    caplog.clear()
    return line


def test_threads_are_set_logged_and_restored(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(compose_config(RUN, tmp_path / "one"))
    assert "on cpu with 1 thread in 32-true;" in headline(caplog)
    train(compose_config([*RUN, "threads=2", "trainer.precision=64-true"], tmp_path / "two"))
    assert "on cpu with 2 threads in 64-true;" in headline(caplog)
    assert checkpoint(tmp_path / "two")["threads"] == 2
    assert torch.get_num_threads() == 1


def test_a_resumed_run_keeps_its_number_of_threads(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(compose_config([*RUN, "threads=2"], tmp_path))
    caplog.clear()
    train(compose_config([*RUN, "trainer.max_epochs=2"], tmp_path), resume=True)
    assert "with 2 threads" in headline(caplog)


@pytest.mark.parametrize("threads", ["0", "-3", "1000000", "many"])
def test_an_invalid_number_of_threads_is_rejected(typed, threads):
    assert_refused(typed("train", *RUN, f"threads={threads}"), "threads")

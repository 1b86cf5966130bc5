"""Grids of samples stay within their fraction of the training time."""

from itertools import count

import pytest

from diffusion_lab import compose_config, train
from diffusion_lab.callbacks.samples import sample_grid
from diffusion_lab.errors import UserError
from tests.conftest import TINY

RUN = (
    *TINY,
    "callbacks.samples.num_samples=2",
    "sampler.num_steps=3",
    "trainer.max_epochs=3",
)


def grids_of(run_dir, *words):
    train(compose_config([*RUN, *words], run_dir))
    return sorted(path.name for path in (run_dir / "figures").glob("samples_epoch_*.png"))


@pytest.fixture
def minute_per_reading(monkeypatch):
    """Advance the clock by a minute at every reading during sampling."""
    clock = count(0, 60)
    monkeypatch.setattr(sample_grid, "monotonic", lambda: next(clock))


def test_grid_under_a_second_is_always_made(tmp_path):
    assert len(grids_of(tmp_path, "callbacks.samples.share=0.000001")) == 3


def test_grid_above_its_fraction_is_left_out(tmp_path, minute_per_reading, caplog):
    with caplog.at_level("INFO"):
        assert grids_of(tmp_path) == []
    (line, *others) = [text for text in caplog.messages if "samples left out" in text]
    # a minute for the second of three steps
    assert "epoch 0: samples left out, 0:03:00 more would be" in line
    assert "callbacks.samples.share=0.1" in line
    assert len(others) == 2


def test_without_a_limit_all_grids_are_made(tmp_path, minute_per_reading):
    assert len(grids_of(tmp_path, "callbacks.samples.share=null")) == 3


def test_time_spent_counts_in_a_resumed_run(tmp_path):
    grid = sample_grid.SampleGrid(sampler=None, share=0.5)
    grid.load_state_dict({"budget": {"spent": 30.0, "elapsed": 100.0}})
    assert grid.budget.allows(40.0)  # 70 of 140 seconds
    assert not grid.budget.allows(41.0)
    assert grid.state_dict() == {"budget": {"spent": 30.0, "elapsed": 100.0}}


def test_invalid_fraction_is_rejected():
    with pytest.raises(UserError, match=r"callbacks\.samples\.share=1\.5"):
        sample_grid.SampleGrid(sampler=None, share=1.5)


def test_a_run_may_have_two_grids(tmp_path):
    words = [
        "+callbacks.more._target_=diffusion_lab.callbacks.SampleGrid",
        "+callbacks.more.seed=1",
    ]
    words += ["+callbacks.more.sampler=${sampler}", "+callbacks.more.num_samples=2"]
    assert len(grids_of(tmp_path, *words)) == 3

"""Grids of samples take no more of a training's time than they may."""

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
def a_minute_a_look(monkeypatch):
    """Every look at the clock while samples are drawn comes a minute after the one before."""
    clock = count(0, 60)
    monkeypatch.setattr(sample_grid, "monotonic", lambda: next(clock))


def test_what_takes_less_than_a_second_is_always_drawn(tmp_path):
    assert len(grids_of(tmp_path, "callbacks.samples.share=0.000001")) == 3


def test_what_would_take_more_than_its_share_is_left_out(tmp_path, a_minute_a_look, caplog):
    with caplog.at_level("INFO"):
        assert grids_of(tmp_path) == []
    (line, *others) = [text for text in caplog.messages if "no samples" in text]
    # a minute for the second of three steps
    assert "epoch 0: no samples, 0:03:00 would make them" in line
    assert "callbacks.samples.share=0.1" in line
    assert len(others) == 2


def test_without_a_share_all_are_drawn(tmp_path, a_minute_a_look):
    assert len(grids_of(tmp_path, "callbacks.samples.share=null")) == 3


def test_time_that_was_spent_counts_after_a_stop(tmp_path):
    grid = sample_grid.SampleGrid(sampler=None, share=0.5)
    grid.load_state_dict({"budget": {"spent": 30.0, "elapsed": 100.0}})
    assert grid.budget.allows(40.0)  # 70 of 140 seconds
    assert not grid.budget.allows(41.0)
    assert grid.state_dict() == {"budget": {"spent": 30.0, "elapsed": 100.0}}


def test_a_share_that_is_none():
    with pytest.raises(UserError, match=r"callbacks\.samples\.share=1\.5"):
        sample_grid.SampleGrid(sampler=None, share=1.5)


def test_a_run_may_have_two_grids(tmp_path):
    words = [
        "+callbacks.more._target_=diffusion_lab.callbacks.SampleGrid",
        "+callbacks.more.seed=1",
    ]
    words += ["+callbacks.more.sampler=${sampler}", "+callbacks.more.num_samples=2"]
    assert len(grids_of(tmp_path, *words)) == 3

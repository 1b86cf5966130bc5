"""Long commands print their work at once, then the remaining time."""

import re
from pathlib import Path

import pytest

from diffusion_lab.sampling import progress as plan
from tests.support.evaluated_runs import make_run

LEFT = re.compile(r"(\d+)% done, about (\S+) (s )?left")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(plan, "monotonic", made)
    return made


def test_lines_are_printed_when_due_with_the_right_time(clock, capsys):
    """100 units of one second: the first line after 2 s, the others every 10 s."""
    with plan.planned_work("a hundred units", 100):
        assert capsys.readouterr().out == "a hundred units\n"
        for _ in range(100):
            clock.now += 1
            plan.advance(1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["2% done, about 98 s left", "12% done, about 88 s left"]
    assert len(lines) == 10
    plan.advance(5)  # no planned work: no line
    assert capsys.readouterr().out == ""


def test_short_work_prints_no_progress_and_long_work_about_20_lines(clock, capsys):
    with plan.planned_work("short", 10):
        for _ in range(10):
            clock.now += 0.1
            plan.advance(1)
    assert capsys.readouterr().out == "short\n"
    with plan.planned_work("ten hours", 36_000):
        for _ in range(36_000):
            clock.now += 1
            plan.advance(1)
    lines = capsys.readouterr().out.splitlines()
    assert 15 < len(lines) < 30
    assert lines[1] == "0% done, about 9:59:58 left"


def test_nested_work_counts_separately(clock, capsys):
    with plan.planned_work("all", 10):
        with plan.planned_work("a part", 100):
            clock.now += 5
            plan.advance(50)
        clock.now += 15
        assert list(map(str, plan.counted(range(5)))) == ["0", "1", "2", "3", "4"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["all", "a part", "50% done, about 5 s left"]
    assert lines[3] == "10% done, about 0:03:00 left"


SHORT = ("accelerator=cpu", "out=out")
COMMANDS = {
    "evaluate": ("num_samples=70", "seeds=2", "batch_size=35"),
    "sample": ("num_samples=4", "batch_size=2", "sampler.num_steps=3"),
    "tradeoff": ("num_samples=70", "seeds=1", "samplers=blend,heun", "num_steps=2,3"),
    "diagnose": ("num_samples=4", "levels=3", "num_images=4", "num_held_out=4"),
    "likelihood": ("num_images=4", "batch_size=2", "tolerance=0.1"),
    "edit": ("edit=image_to_image", "num_samples=2", "num_steps=2"),
}
FIRST_LINES = {
    "evaluate": "sampling 70 images for each of 2 seeds with heun in 2 steps, then scoring them",
    "sample": "sampling 4 images with heun in 3 steps",
    "tradeoff": "timing and scoring 4 sampler settings, 0 of them done already",
    "diagnose": "losses: network and ideal denoiser (of 20 images) on 4 images of each split",
    "likelihood": "probability-flow ODE of 4 images of test",
    "edit": "image_to_image of 8 images in 2 steps each",
}


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    from diffusion_lab import compose_config, train
    from tests.conftest import RUN

    folder = tmp_path_factory.mktemp("flow")
    words = [*RUN, "trainer.max_epochs=1", "sampler=heun", "sampler.num_steps=2"]
    train(compose_config([*words, "logger=csv"], folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_print_their_work_and_the_remaining_time(typed, monkeypatch, bars, flow, name):
    monkeypatch.setattr(plan, "FIRST", 0.0)
    monkeypatch.setattr(plan, "EVERY", 0.0)
    monkeypatch.setattr(plan, "monotonic", Clock())
    steps = plan.Plan.advance

    def slow(self, amount):
        plan.monotonic.now += 20.0  # as if each unit took 20 s
        steps(self, amount)

    monkeypatch.setattr(plan.Plan, "advance", slow)
    extractor = [f"extractor={bars}"] if name in ("evaluate", "tradeoff") else []
    code, out, err = typed(name, f"run={flow}", *COMMANDS[name], *extractor, *SHORT)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith(FIRST_LINES[name])
    percents = [int(m[1]) for m in map(LEFT.fullmatch, lines) if m]
    assert percents and max(percents) <= 100
    if name != "diagnose":  # diagnose has several parts
        assert percents == sorted(percents)
    assert Path(lines[-1]).name == "out"


def test_compare_prints_the_number_of_runs(typed, tmp_path):
    make_run(tmp_path / "a", [1.0, 2.0])
    make_run(tmp_path / "b", [2.0, 3.0], config={"optimizer": {"lr": 1}})
    code, out, err = typed("compare", "runs=a,b", "metrics=fid")
    assert code == 0, err
    assert out.splitlines()[0] == "reading the evaluations of 2 runs"

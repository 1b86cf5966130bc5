"""Parts of the benchmark: order, statistics, targets, and equal work on both sides."""

import json
import math
import struct

import pytest
import torch
from PIL import Image

from diffusion_lab.benchmark.figure import Growth, scaling_figure
from diffusion_lab.benchmark.interleaved import Blocks, Interleaved, Screen, planned
from diffusion_lab.benchmark.machine import flops, matmul_rate
from diffusion_lab.benchmark.parts.peak_memory import resident
from diffusion_lab.benchmark.parts.scaling import Curve, _loop
from diffusion_lab.benchmark.settings import Settings
from diffusion_lab.benchmark.table import Row, Target, number, table
from diffusion_lab.benchmark.timing import Comparison, alternate, how_many, timed
from diffusion_lab.benchmark.torchvision_files import write_torchvision_files
from diffusion_lab.benchmark.tutorial_baseline import (
    AtTimeZero,
    PlainTraining,
    PlainUNet,
    plain_loader,
    plain_loss,
    plain_unet2d,
)
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import UserError
from diffusion_lab.figures import save_figure
from diffusion_lab.modules import BasicUNetModule
from diffusion_lab.networks.basic_unet import BasicUNet
from diffusion_lab.networks.unet2d import UNet2D

CPU = torch.device("cpu")


class FakeClock:
    """Clock that only the measured work advances."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def data():
    made = ImageDataModule("fake", num_images=40, val_size=10, batch_size=4)
    made.setup()
    return made


def test_baseline_and_ours_alternate_after_a_warm_up():
    calls = []

    def side(name, values):
        left = iter(values)

        def measure():
            calls.append(name)
            return next(left)

        return measure

    found = alternate(side("A", [99, 2, 4, 8]), side("B", [99, 4, 4, 24]), repeats=3)
    assert "".join(calls) == "ABABABAB"
    assert found.baseline == (2, 4, 8) and found.ours == (4, 4, 24)
    calls.clear()
    alternate(side("A", [1, 1]), side("B", [1, 1]), repeats=2, warm_up=False)
    assert "".join(calls) == "ABAB"


def test_ratio_is_the_median_over_pairs():
    found = Comparison((2.0, 4.0, 8.0), (4.0, 4.0, 24.0))
    assert found.ratios == (2, 1, 3)
    assert found.ratio == 2 and found.spread == (1, 3) and found.medians == (4, 4)
    rates = found.map(lambda s: 1 / s)
    assert rates.baseline == (0.5, 0.25, 0.125) and rates.ratio == 0.5


def test_timed_uses_the_given_clock():
    clock = FakeClock()

    def work():
        clock.now += 2.5

    assert timed(work, CPU, clock) == 2.5


def test_block_size_fits_the_time():
    assert how_many([1.0, 1.0], repeats=5, seconds=20, most=100) == 2
    assert how_many([30.0], repeats=5, seconds=20, most=100) == 1  # never none
    assert how_many([1e-6], repeats=5, seconds=20, most=100) == 100
    assert how_many([0.0], repeats=1, seconds=1, most=7) == 7


class FakeTrainer:
    def __init__(self, batches):
        self.num_training_batches, self.global_step, self.should_stop = batches, 0, False


class FakeModule:
    device = CPU


@pytest.fixture
def no_garbage(monkeypatch):
    """Turn off garbage collection, which takes longer than these tests."""
    monkeypatch.setattr("gc.collect", lambda: 0)


def run_loop(batches, blocks, clock, step_seconds=1.0, between_epochs=1000.0):
    """Call the hooks in order; return events: B3 for 3 baseline steps, s for one of ours."""
    events = []

    def baseline(steps):
        events.append(f"B{steps}")
        clock.now += 10.0 * steps

    blocks.baseline = baseline
    with planned(blocks):
        callback = Interleaved()
    trainer = FakeTrainer(batches)
    for _ in range(20):
        callback.on_train_epoch_start(trainer, FakeModule)
        for index in range(batches):
            callback.on_train_batch_start(trainer, FakeModule, None, index)
            clock.now += step_seconds
            events.append("s")
            trainer.global_step += 1
            if trainer.should_stop:
                return " ".join(events)
        clock.now += between_epochs
    raise AssertionError("it never stopped")


def test_baseline_runs_between_blocks_of_training(no_garbage):
    clock = FakeClock()
    blocks = Blocks(print, steps=3, repeats=2, clock=clock)
    assert run_loop(50, blocks, clock) == "s s B3 s s s B3 s s s s"
    assert blocks.comparison == Comparison((10.0, 10.0), (1.0, 1.0))


def test_end_of_an_epoch_is_not_timed(no_garbage):
    clock = FakeClock()
    blocks = Blocks(print, steps=3, repeats=4, clock=clock)
    run_loop(5, blocks, clock)
    assert blocks.our_seconds == [1.0] * 4 and blocks.baseline_seconds == [10.0] * 4
    blocks = Blocks(print, steps=300, repeats=2, clock=clock)  # longer than an epoch
    run_loop(5, blocks, clock)
    assert blocks.steps == 4 and blocks.our_seconds == [1.0] * 2
    with pytest.raises(UserError, match="an epoch has 1 batches"):
        run_loop(1, Blocks(print, steps=1, repeats=1, clock=clock), clock)


def test_tutorial_loss_equals_the_modules_loss():
    plain, own = PlainUNet(), BasicUNet()
    own.load_state_dict(plain.state_dict())
    x, noise, amount = torch.rand(6, 1, 28, 28), torch.rand(6, 1, 28, 28), torch.rand(6)
    expected = BasicUNetModule(network=own).losses(x, noise, amount)[1].mean()
    torch.testing.assert_close(plain_loss(plain, x, noise, amount), expected)


@pytest.mark.slow
def test_tutorial_loss_of_unet2d_equals_the_modules_loss():
    unet = plain_unet2d()
    own = UNet2D(use_time=False)
    own.unet.load_state_dict(unet.state_dict())
    x, noise, amount = torch.rand(2, 1, 28, 28), torch.rand(2, 1, 28, 28), torch.rand(2)
    expected = BasicUNetModule(network=own).losses(x, noise, amount)[1].mean()
    torch.testing.assert_close(plain_loss(AtTimeZero(unet), x, noise, amount), expected)


def test_tutorial_loop_trains_over_several_epochs(tmp_path, data):
    torch.manual_seed(0)
    root = write_torchvision_files(data, tmp_path)
    loop = PlainTraining(PlainUNet(), plain_loader(root, 16), CPU)
    loop.steps(2)  # an epoch
    loop.steps(10)
    assert len(loop.losses) == 12 and loop.losses[-1] < loop.losses[0]


def test_torchvision_reads_the_written_images(tmp_path, data):
    root = write_torchvision_files(data, tmp_path)
    loader = plain_loader(root, 30)
    images = torch.cat([images for images, _ in loader])
    own = data.value_range.encode(data.pixels("train"))
    assert images.shape == own.shape == (30, 1, 28, 28)
    key = lambda batch: sorted(batch.flatten(1).double().sum(1).tolist())  # noqa: E731
    assert key(images) == pytest.approx(key(own))
    header = (root / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()[:16]
    assert struct.unpack(">4I", header) == (2051, 30, 28, 28)  # as MNIST's own


def test_output_goes_to_a_simulated_terminal(tmp_path):
    with Screen((tmp_path / "screen").open("wb")) as screen:
        assert screen.isatty()
        print("hidden", file=screen)


def row(values, target, **details):
    return Row("part", "a thing", "another", "images/s", values, target, details)


@pytest.mark.parametrize(
    ("target", "ratio", "ours", "verdict"),
    [
        (Target(100, at_least=True), 120, 1, "met"),
        (Target(100, at_least=True), 100, 1, "met"),
        (Target(100, at_least=True), 80, 1, "missed by 20 %"),
        (Target(1.2, at_least=False), 1.0, 5, "met"),
        (Target(1.2, at_least=False), 1.5, 5, "missed by 25 %"),
        (Target(1.2, at_least=False), 3.6, 5, "missed by 2"),
        (Target(1.5, at_least=False, limit=1.0), 1.1, 0.5, "met"),
        (Target(1.5, at_least=False, limit=1.0), 1.1, 1.5, "missed 1.5 is not below 1"),
        (Target(1.5, at_least=False, limit=1.0), -0.2, -1.5, "unclear, the noise is larger"),
        (Target(1.5, at_least=False, limit=1.0), 0.5, -0.1, "unclear, the noise is larger"),
        (Target(1.2, at_least=False), math.nan, 1.0, "missed by nan %"),
    ],
)
def test_verdict_of_a_target(target, ratio, ours, verdict):
    assert target.verdict(ratio, ours) == verdict


def test_row_as_table_line_and_json():
    made = row(Comparison((1000.0, 1100.0), (2100.0, 2200.0)), Target(1.5, at_least=True), n=4)
    head, line = table([made])
    assert head.split()[:3] == ["what", "baseline", "ours"]
    assert "1,050" in line and "2,150" in line and "2.05 [2..2.1]" in line
    assert ">= 1.5 x" in line and line.endswith("met")
    found = json.loads(json.dumps(made.as_json(), allow_nan=False))
    assert found["ratio"] == pytest.approx(2.05) and found["met"] is True
    assert found["our_values"] == [2100.0, 2200.0] and found["details"] == {"n": 4}
    assert number(0.01234) == "0.0123" and number(123456.7) == "123,457"


def test_curve_has_exponent_and_steepest_segment():
    straight = Curve("a", "x", (1, 10, 100), (2.0, 20.0, 200.0), (5.0, 50.0, 500.0))
    assert straight.exponent == pytest.approx(1) and straight.bend[0] == pytest.approx(1)
    assert "exponent 1.00" in straight.line and "of the operations 1.00" in straight.line
    bent = Curve("b", "x", (1, 10, 100), (1.0, 10.0, 1000.0), note="why")
    assert bent.bend == (pytest.approx(2), 10, 100)
    assert bent.exponent == pytest.approx(1.5) and bent.line.endswith("; why")
    assert json.dumps(bent.as_json())


def test_scaling_figure(tmp_path):
    panels = [
        Growth("steps", "steps", (5, 10, 20), (1.0, 2.0, 4.1), 1.02, (1.0, 2.0, 4.0)),
        Growth("images", "images", (1e3, 1e6), (1e-3, 1.0), 1.0),
        Growth("more", "images", (16, 512), (1e-3, 1.0), 1.3),
    ]
    path = save_figure(scaling_figure(panels), tmp_path / "scaling.png")
    with Image.open(path) as picture:
        assert picture.width > picture.height > 500
    with pytest.raises(ValueError, match="at least one panel"):
        scaling_figure([])


def test_machine_record():
    assert matmul_rate(CPU, 0.01) > 1e8
    a = torch.rand(4, 8, requires_grad=True)
    assert flops(lambda: (a @ torch.rand(8, 2)).sum().backward()) >= 2 * 4 * 8 * 2 * 2
    assert 2**20 < resident("VmRSS") <= resident("VmHWM")


def test_scaling_times_full_batches_only(tmp_path):
    settings = Settings(
        repeats=1,
        seconds=1.0,
        batch_size=4,
        num_samples=1,
        run=None,
        device=CPU,
        accelerator="cpu",
        threads=1,
        precision="auto",
        data="fake",
        words=(),
        training_words=(),
        scratch=tmp_path,
    )
    loop = _loop(settings, 28, 6)
    sizes = [len(next(loop.batches)[0]) for _ in range(7)]
    assert sizes == [6] * 7

"""Overhead of a training step: no synchronisation with the device, no unnecessary logging."""

import csv
from itertools import pairwise

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion_lab import compose_config, train
from diffusion_lab.callbacks import FiniteLoss, finite_loss
from diffusion_lab.callbacks.monitoring import progress_bar as progress
from tests.conftest import TINY

RUN = (*TINY, "network.channels=[4,4]", "data.num_images=400", "data.batch_size=4")


class Looks(TorchDispatchMode):
    """Count reads of tensor values from Python, which synchronise with a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    """Count calls of `tolist`, which is not dispatched on a CPU and invisible to `Looks`."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.Tensor.tolist
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize(("setting", "a_step"), [("=null", 0), (".skip=0", 1), (".skip=1", 1)])
def test_synchronisations_per_step(setting, a_step, queued, tmp_path, monkeypatch):
    """Only FiniteLoss reads values, once per step; none if it copies asynchronously."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_DRAWS", 1e9)
    if queued:  # as on a GPU
        monkeypatch.setattr(finite_loss, "_is_asynchronous", lambda device: True)
        if setting == ".skip=0":
            a_step = 0
            copies = []
            send = finite_loss._StepNumbers.start_copy
            monkeypatch.setattr(
                finite_loss._StepNumbers,
                "start_copy",
                lambda self: copies.append(self) or send(self),
            )

            def read(self):  # not counted: it is there, of the step before
                assert self is copies[-1]
                return [0.0] * len(self.numbers)

            monkeypatch.setattr(finite_loss._StepNumbers, "read", read)
    counts = []
    for steps in (10, 30):
        words = [
            f"callbacks.finite_loss{setting}",
            "callbacks.progress._target_=diffusion_lab.callbacks.monitoring.progress_bar.LiveBar",
            f"trainer.limit_train_batches={steps}",
            "trainer.log_every_n_steps=1000",
        ]
        with Looks() as looks, Lists() as lists:
            train(compose_config([*RUN, *words], tmp_path / str(steps)))
        counts.append(looks.count + lists.count)
    assert counts[1] - counts[0] == 20 * a_step


def losses_of(folder):
    with (folder / "losses.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def curve_of(folder):
    events = EventAccumulator(str(folder)).Reload()
    return [(e.step, e.value) for e in events.Scalars("train/loss")]


def test_curve_has_the_losses_at_the_interval(tmp_path):
    words = ["trainer.limit_train_batches=10", "trainer.max_epochs=2", "trainer.max_steps=14"]
    result = train(compose_config([*RUN, *words, "trainer.log_every_n_steps=4"], tmp_path))
    losses = losses_of(tmp_path)
    assert len(losses) == 14
    # every fourth step, and the last
    assert curve_of(tmp_path) == [(i, pytest.approx(losses[i])) for i in (3, 7, 11, 13)]
    assert result.metrics["train/loss"] == pytest.approx(losses[-1])


def test_interval_of_zero_logs_no_curve(tmp_path):
    result = train(compose_config([*RUN, "trainer.log_every_n_steps=0"], tmp_path))
    assert result.metrics["train/loss"] == pytest.approx(losses_of(tmp_path)[-1])
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
    assert "images_per_second" not in tags and "val/loss" in tags


def test_accumulation_logs_a_point_per_optimizer_step(tmp_path):
    """One point per step, not per batch, with the undivided loss of the last batch."""
    words = ["trainer.accumulate_grad_batches=3", "trainer.limit_train_batches=12"]
    train(compose_config([*RUN, *words, "trainer.log_every_n_steps=2"], tmp_path))
    losses = losses_of(tmp_path)
    assert curve_of(tmp_path) == [(i, pytest.approx(losses[3 * i + 2])) for i in (1, 3)]


def test_constant_learning_rate_is_logged(tmp_path):
    train(compose_config([*RUN, "trainer.limit_train_batches=30"], tmp_path))
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("lr")
    assert len(events) > 1 and {round(e.value, 9) for e in events} == {0.001}


def test_an_epoch_shorter_than_the_interval_has_its_metric(tmp_path):
    words = ["trainer.limit_train_batches=3", "trainer.log_every_n_steps=50"]
    result = train(compose_config([*RUN, *words], tmp_path))
    assert result.metrics["train/loss"] == pytest.approx(losses_of(tmp_path)[-1])


@pytest.mark.slow
def test_run_with_a_time_limit_logs_its_last_loss(tmp_path):
    words = ["trainer.max_epochs=-1", "trainer.max_time=00:00:00:03", "callbacks.samples=null"]
    more = ["trainer.limit_train_batches=null", "trainer.log_every_n_steps=1000"]
    accumulated = "trainer.accumulate_grad_batches=2"
    result = train(compose_config([*RUN, *words, *more, accumulated], tmp_path))
    assert result.metrics["train/loss"] == pytest.approx(losses_of(tmp_path)[-1])


def test_monitored_loss_is_updated_every_step(tmp_path):
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *args):
            seen.append((trainer.callback_metrics["train/loss"].item(), outputs["loss"].item()))

    begin = FiniteLoss.on_fit_start

    def on_fit_start(self, trainer, pl_module):
        trainer.callbacks.append(Watch())
        begin(self, trainer, pl_module)

    words = ["monitor=train/loss", "trainer.limit_train_batches=5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FiniteLoss, "on_fit_start", on_fit_start)
        train(compose_config([*RUN, *words, "trainer.log_every_n_steps=50"], tmp_path))
    assert len(seen) == 5 and all(a == pytest.approx(b) for a, b in seen)


def test_the_fused_optimizer_is_adam_within_rounding(tmp_path):
    words = [*RUN, "trainer.limit_train_batches=40"]
    fused = train(compose_config(words, tmp_path / "fused"))
    plain = train(compose_config([*words, "optimizer.fused=null"], tmp_path / "plain"))
    assert fused.trainer.optimizers[0].defaults["fused"]
    assert not plain.trainer.optimizers[0].defaults["fused"]
    torch.testing.assert_close(
        losses_of(tmp_path / "fused"), losses_of(tmp_path / "plain"), rtol=1e-4, atol=1e-6
    )


@pytest.mark.slow
def test_a_scaler_leaves_a_fused_optimizer_unscaled_gradients(tmp_path):
    """Gradient clipping, which Lightning rejects if the optimizer unscales, and the norm work."""
    norms = []

    class Scaled(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            grads = [p.grad for p in pl_module.parameters()]
            norms.append(torch.nn.utils.get_total_norm(grads).item())

    begin = FiniteLoss.on_train_start

    def on_train_start(self, trainer, pl_module):
        if scale:
            scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)
        trainer.callbacks.append(Scaled())
        begin(self, trainer, pl_module)

    for scale in (0, 1024.0, 2048.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FiniteLoss, "on_train_start", on_train_start)
            words = [*RUN, "trainer.gradient_clip_val=0.01", "trainer.limit_train_batches=3"]
            train(compose_config(words, tmp_path / str(scale)))
    plain, *scaled = (norms[i : i + 3] for i in (0, 3, 6))
    assert all(a == pytest.approx(plain, rel=0.05) for a in scaled)
    assert all(a != b for a, b in pairwise(plain))

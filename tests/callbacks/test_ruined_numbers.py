"""Non-finite weights, averages and running statistics never reach a file."""

import pytest
import torch

from diffusion_lab import compose_config, train
from diffusion_lab.errors import Diverged
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.training.replay import replay
from tests.cli.test_bad_input import assert_refused
from tests.support.poison import QUICK, Poison, checkpoint, equal, judge_late, record_of, train_with


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("batches", [1, 5], ids=["before validation", "in the next step"])
def test_non_finite_weights_reach_no_file(batches, late, tmp_path, monkeypatch):
    """Adam divides 0 by 0 where eps is 0 and a gradient is: the last layer begins at zero."""
    if late:
        judge_late(monkeypatch)
    words = [
        "+optimizer.eps=0.0",
        f"trainer.limit_train_batches={batches}",
        "+callbacks.post_hoc_ema._target_=diffusion_lab.callbacks.PostHocEMA",
        "+callbacks.post_hoc_ema.every_n_steps=1",
    ]
    with pytest.raises(Diverged, match=r"step 1 .* is finite, but a weight or buffer is nan"):
        train(compose_config([*QUICK, *words], tmp_path))
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("step_*.pt"))
    assert replay(tmp_path / "anomaly.pt").first.startswith("the weights network.")


@pytest.mark.parametrize("words", [[], ["+callbacks.best.save_on_exception=true"]])
def test_non_finite_validation_stops_before_saving(words, tmp_path, monkeypatch):
    """The weights are finite, and the validation loss is not."""
    begin = DiffusionModule.on_validation_epoch_start

    def spoil(self):
        begin(self)
        if self.trainer.current_epoch == 1:
            nan = torch.tensor([torch.nan])
            monkeypatch.setattr(DiffusionModule, "losses", lambda *_: (nan, nan))

    monkeypatch.setattr(DiffusionModule, "on_validation_epoch_start", spoil)
    with pytest.raises(Diverged, match="validation loss is nan after step 10"):
        train(compose_config([*QUICK, "trainer.max_epochs=3", *words], tmp_path))
    assert record_of(tmp_path)["status"] == "diverged"
    for name in ("best", "last"):
        assert checkpoint(tmp_path, name)["epoch"] == 0


def test_skip_counts_over_a_resumed_run(typed, tmp_path, monkeypatch):
    """The limit of the resumed run includes steps skipped before."""
    poison = Poison(1)
    words = ["callbacks.finite_loss.skip=1", "trainer.max_epochs=1"]
    train_with(poison, tmp_path, *words)
    nan = torch.tensor([torch.nan], requires_grad=True)

    def losses(self, *_):
        error = self.network.conv_out.bias * nan
        return error, error

    monkeypatch.setattr(DiffusionModule, "losses", losses)
    code, _, err = typed(
        "train", f"resume={tmp_path}", "trainer.max_epochs=2", "callbacks.finite_loss.skip=0"
    )
    assert code == 3 and "step 6 is not finite" in err
    assert record_of(tmp_path)["skipped_steps"] == 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("ruin", ["a batch", "the weights at the end of the epoch"])
def test_exception_saves_no_bad_weights(ruin, late, tmp_path, monkeypatch):
    """Neither Lightning's OnExceptionCheckpoint nor `best` with save_on_exception saves them."""
    if late:
        judge_late(monkeypatch)
    numbers = [3] if ruin == "a batch" else []

    class Ruin(Poison):
        def on_train_batch_end(self, trainer, pl_module, *args):
            super().on_train_batch_end(trainer, pl_module, *args)
            if ruin != "a batch" and self.seen == 4:
                next(pl_module.parameters()).data[0] = torch.nan

    words = [
        "+callbacks.best.save_on_exception=true",
        "+callbacks.again._target_=lightning.pytorch.callbacks.OnExceptionCheckpoint",
        f"+callbacks.again.dirpath={tmp_path}",
    ]
    with pytest.raises(Diverged) as caught:
        train_with(Ruin(*numbers), tmp_path, *words)
    assert ("step 4 " if numbers else "step 5 ") in str(caught.value)
    assert not list(tmp_path.rglob("*.ckpt"))
    saved = torch.load(tmp_path / "anomaly.pt", weights_only=True)
    assert saved["message"] == str(caught.value) == record_of(tmp_path)["error"]


def test_skipped_step_has_no_gradient_to_clip(tmp_path):
    words = ["trainer.gradient_clip_val=0.5", "+trainer.gradient_clip_algorithm=value"]
    train_with(Poison(2), tmp_path, *words, "callbacks.finite_loss.skip=1")
    assert record_of(tmp_path)["status"] == "finished"


def test_late_detection_reports_the_last_finite_step(tmp_path, monkeypatch):
    """Weights that no later loss uses are checked at the epoch's end; empty tensors pass."""

    def setup(self, stage):
        self.spare = torch.nn.Parameter(torch.ones(2))
        self.none = torch.nn.Parameter(torch.ones(0))

    class Ruin(Poison):
        def on_train_batch_end(self, trainer, pl_module, *args):
            super().on_train_batch_end(trainer, pl_module, *args)
            if self.seen == 6:
                pl_module.spare.data[0] = torch.inf

    monkeypatch.setattr(DiffusionModule, "setup", setup)
    with pytest.raises(Diverged, match=r"step 10 .*or buffer is inf .*were finite after step 5\)"):
        train_with(Ruin(), tmp_path, "trainer.max_epochs=2")
    assert checkpoint(tmp_path)["epoch"] == 0


def test_non_finite_running_statistics_reach_no_file(tmp_path, monkeypatch):
    """A skipped step keeps the weights, but its forward pass has changed the running statistics."""

    def setup(self, stage):
        self.norm = torch.nn.BatchNorm2d(1)
        losses = self.losses
        self.losses = lambda x0, *rest: losses(self.norm(x0), *rest)

    monkeypatch.setattr(DiffusionModule, "setup", setup)
    with pytest.raises(Diverged, match=r"step 5 .*weight or buffer is nan"):
        train_with(Poison(2), tmp_path, "callbacks.finite_loss.skip=1")
    assert not list(tmp_path.rglob("*.ckpt"))


def test_tied_weights_are_replayed(tmp_path, monkeypatch):
    judge_late(monkeypatch)

    def setup(self, stage):
        self.alias = self.network

    monkeypatch.setattr(DiffusionModule, "setup", setup)
    poison = Poison(2)
    with pytest.raises(Diverged):
        train_with(poison, tmp_path)
    saved = torch.load(tmp_path / "anomaly.pt", weights_only=True)["state_dict"]
    assert equal(saved, poison.after[1][0])


def test_save_weights_only_is_rejected(typed):
    result = typed("train", *QUICK, "+callbacks.best.save_weights_only=true")
    assert_refused(result, "save_weights_only=true", "expected save_weights_only=false")


def test_weights_whose_squares_overflow_are_finite(tmp_path, monkeypatch):
    def setup(self, stage):
        self.spare = torch.nn.Parameter(torch.full((2,), 1e30))

    monkeypatch.setattr(DiffusionModule, "setup", setup)
    result = train(compose_config(QUICK, tmp_path))
    assert result.module.spare.norm().isinf()
    assert record_of(tmp_path)["status"] == "finished"

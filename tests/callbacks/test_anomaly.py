"""Non-finite optimizer steps: prevented, reported, and replayed in another process."""

import shutil

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.errors import Diverged, UserError
from diffusion_lab.training.replay import largest_gradient, replay
from tests.cli.test_bad_input import assert_refused
from tests.support.poison import QUICK, Poison, checkpoint, equal, judge_late, record_of, train_with


@pytest.fixture(scope="module", params=[False, True], ids=["at once", "late"])
def stopped(request, tmp_path_factory):
    """Stop a run whose eighth batch, the third of its second epoch, is not finite."""
    folder = tmp_path_factory.mktemp("stopped")
    poison = Poison(7, image=2)
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            judge_late(patch)
        with pytest.raises(Diverged) as caught:
            train_with(poison, folder, "trainer.max_epochs=2", "model.num_classes=10")
    assert len(poison.after) == 7 + request.param
    return folder, poison, str(caught.value)


def test_run_stops_and_reports_the_step(stopped):
    folder, poison, message = stopped
    assert "\n" not in message
    assert "optimizer step 8 is not finite (epoch 1, batch 2)" in message
    assert "the loss is nan" in message
    assert "largest gradient norm is nan in network." in message
    # the eighth batch by hand: the order of epoch 1, of the split that is everything but 4 images
    (mixed,) = np.random.SeedSequence([0, 1]).generate_state(1)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(int(mixed)))
    by_hand = order[8:12].tolist()
    assert f"train:{','.join(map(str, by_hand))};" in message
    assert poison.indices[7] == by_hand
    record = record_of(folder)
    assert record["status"] == "diverged" and record["error"] == message
    assert record["steps"] == len(poison.after) and len(record["epoch_losses"]) == 1


def test_weights_average_and_checkpoints_are_those_of_the_last_good_step(stopped):
    """anomaly.pt holds the state of the bad step, last.ckpt the last saved finite one."""
    folder, poison, _ = stopped
    weights, average = poison.after[4]  # the end of the first epoch
    last = checkpoint(folder)
    assert equal(last["state_dict"], weights) and equal(last["ema"]["weights"], average)
    assert last["ema"]["steps"] == 5
    assert equal(checkpoint(folder, "best")["ema"]["weights"], average)
    moments = last["optimizer_states"][0]["state"].values()
    for a, b in zip([v for s in moments for v in s.values()], poison.moments[4], strict=True):
        assert torch.equal(a, b)
    assert load_run(folder).sample(2).shape == (2, 1, 28, 28)


def test_anomaly_file_holds_the_original_batch(stopped):
    folder, poison, message = stopped
    saved = torch.load(folder / "anomaly.pt", weights_only=True)
    assert saved["message"] == message and saved["indices"].tolist() == poison.indices[7]
    assert equal(saved["state_dict"], poison.after[6][0])
    assert saved["x0"].isnan().nonzero().tolist() == [[2, 0, 0, 0]]
    assert saved["config"]["model"]["num_classes"] == 10
    assert (saved["epoch"], saved["batch"], saved["step"]) == (1, 2, 8)


def test_replay_names_the_bad_image(stopped):
    folder, poison, _ = stopped
    before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*"))
    seen = replay(folder / "anomaly.pt")
    assert [np.isnan(loss) for loss in seen.losses] == [False, False, True, False]
    assert seen.first == f"the image train:{poison.indices[7][2]}"
    assert seen.same and np.isnan(seen.largest_gradient[1]) and seen.gradients
    assert sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*")) == before


@pytest.mark.parametrize("batches", [1, 2])
def test_a_skipped_step_changes_nothing(batches, tmp_path):
    poison = Poison(2)
    result = train_with(
        poison,
        tmp_path,
        "callbacks.finite_loss.skip=1",
        f"trainer.accumulate_grad_batches={batches}",
        "trainer.limit_train_batches=4",
    )
    # with two batches a step the third is half of the second step, which ends with the fourth
    end = 2 if batches == 1 else 3
    assert equal(poison.after[end][0], poison.after[1][0])
    assert equal(poison.after[end][1], poison.after[1][1])
    for a, b in zip(poison.moments[end], poison.moments[1], strict=True):
        assert torch.equal(a, b)
    assert result.trainer.global_step == 4 // batches
    record = record_of(tmp_path)
    assert record["status"] == "finished" and record["skipped_steps"] == 1
    assert np.isfinite(record["metrics"]["train/loss_epoch"])
    last = checkpoint(tmp_path)
    assert last["ema"]["steps"] == 4 // batches
    assert all(v.isfinite().all() for v in last["ema"]["weights"].values())
    if batches == 1:
        assert not equal(poison.after[3][0], poison.after[2][0])


def test_more_bad_steps_than_skip_stop_the_run(tmp_path):
    poison = Poison(1, 7)
    with pytest.raises(Diverged, match="optimizer step 8 "):
        train_with(poison, tmp_path, "callbacks.finite_loss.skip=1", "trainer.max_epochs=2")
    assert record_of(tmp_path)["skipped_steps"] == 1
    assert checkpoint(tmp_path)["callbacks"]["FiniteLoss"] == {"skipped": 1}


def test_bad_batch_within_accumulation_is_named(tmp_path):
    poison = Poison(0)
    with pytest.raises(Diverged, match=r"step 1 .*epoch 0, batch 0") as caught:
        train_with(poison, tmp_path, "trainer.accumulate_grad_batches=2")
    assert f"train:{','.join(map(str, poison.indices[0]))};" in str(caught.value)
    assert replay(tmp_path / "anomaly.pt").same


def test_non_finite_gradient_stops_with_a_finite_loss(tmp_path):
    class Spoil(Poison):
        def on_after_backward(self, trainer, pl_module):
            dict(pl_module.named_parameters())["network.conv_in.bias"].grad[3] = -float("inf")

    with pytest.raises(Diverged, match=r"gradient norm is inf in network.conv_in.bias, 1 "):
        train_with(Spoil(), tmp_path)
    seen = replay(tmp_path / "anomaly.pt")  # the network itself was fine
    assert seen.same and seen.first is None and not seen.gradients


def test_overflowing_gradient_norm_stops(tmp_path):
    """The norm of each tensor is finite, their joint norm overflows float32 (3.4e38)."""

    class Large(Poison):
        def on_after_backward(self, trainer, pl_module):
            parameters = dict(pl_module.named_parameters())
            for name in ("conv_in", "conv_out"):
                grad = parameters[f"network.{name}.bias"].grad
                grad.fill_(1.5e19 / grad.numel() ** 0.5)
                assert grad.norm().isfinite()

    with pytest.raises(Diverged, match=r"norm is 1\.5e\+19 in network.conv_\w+.bias, 0"):
        train_with(Large(), tmp_path)


@pytest.mark.parametrize(("scale", "stops"), [(65536.0, False), (0.5, True)])
def test_gradient_scaler_handles_its_own_overflow(scale, stops, tmp_path):
    """With the scaler of 16-mixed on a CPU, an overflow due to its scale is no divergence."""

    class Overflow(Poison):
        def on_train_start(self, trainer, pl_module):
            scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)

        def on_after_backward(self, trainer, pl_module):
            if self.seen == 1:
                next(pl_module.parameters()).grad[0] = torch.inf

    overflow = Overflow()
    if stops:
        with pytest.raises(Diverged, match=r"step 2 .*the loss is [0-9.]+, the largest gradient"):
            train_with(overflow, tmp_path)
        return
    result = train_with(overflow, tmp_path)
    assert equal(overflow.after[1][0], overflow.after[0][0])
    assert not equal(overflow.after[2][0], overflow.after[1][0])
    assert result.trainer.precision_plugin.scaler.get_scale() == scale / 2
    assert record_of(tmp_path)["skipped_steps"] == 0


@pytest.mark.slow
def test_too_large_learning_rate_stops(typed, tmp_path):
    code, _, err = typed("train", *QUICK, "optimizer.lr=1e30", "hydra.run.dir=run")
    assert code == 3
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "lower optimizer.lr" in lines[0] and "debug=replay" in lines[0]
    assert record_of(tmp_path / "run")["status"] == "diverged"
    saved = torch.load(tmp_path / "run" / "anomaly.pt", weights_only=True)
    assert saved["step"] < 5  # within the first epoch: nothing was saved before
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    code, out, err = typed("train", "debug=replay", "replay=run/anomaly.pt")
    assert code == 0 and "as in the run" in out, err


@pytest.mark.slow
def test_diverged_run_resumes_with_a_larger_skip(stopped, typed, tmp_path):
    """With the bad batch repaired nothing is skipped, and the last finite checkpoint is resumed."""
    folder = tmp_path / "run"
    shutil.copytree(stopped[0], folder)
    code, _, err = typed("train", f"resume={folder}", "callbacks.finite_loss.skip=3")
    assert code == 0, err
    record = record_of(folder)
    assert record["status"] == "finished" and record["steps"] == 10
    assert "error" not in record


@pytest.mark.slow
def test_two_processes_stop_together(command, tmp_path):
    words = ("trainer.devices=2", "trainer.strategy=ddp", "optimizer.lr=1e30")
    process = command("train", *QUICK, *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert process.returncode == 3, process.stderr
    assert record_of(tmp_path / "run")["status"] == "diverged"
    assert "lower optimizer.lr" in process.stderr and "Traceback" not in process.stderr


def test_the_largest_gradient():
    a, b, c = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad, b.grad = torch.tensor([1.0, -3.0]), torch.tensor([2.0, 0.0])
    named = [("a", a), ("b", b), ("c", c)]
    assert largest_gradient(named) == ("a", 3.0)
    b.grad[0] = torch.inf
    assert largest_gradient(named) == ("b", torch.inf)
    a.grad[0] = torch.nan
    name, value = largest_gradient(named)
    assert name == "a" and np.isnan(value)


@pytest.mark.slow
def test_finite_run_is_unchanged_by_the_checks(tmp_path, monkeypatch):
    results = [
        train(compose_config([*QUICK, f"callbacks.finite_loss{setting}"], tmp_path / str(i)))
        for i, setting in enumerate(("=null", ".skip=3"))
    ]
    judge_late(monkeypatch)
    results.append(train(compose_config(QUICK, tmp_path / "late")))
    for weights in zip(*(r.module.parameters() for r in results), strict=True):
        assert all(torch.equal(weights[0], w) for w in weights[1:])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["debug=replay"], ["replay= is missing", "anomaly.pt"]),
        (["debug=replay", "replay=nowhere.pt"], ["replay=nowhere.pt is no file"]),
        (["debug=replay", "replay={run}/metrics.json"], ["damaged", "anomaly.pt"]),
        (["debug=replay", "replay={run}/checkpoints/last.ckpt"], ["KeyError", "anomaly.pt"]),
        (["debug=replay", "replay={run}/anomaly.pt", "model=ddpm"], ["leave out model=ddpm"]),
        (["replay={run}/anomaly.pt"], ["debug=replay"]),
        (["callbacks.finite_loss.skip=-1"], ["finite_loss.skip=-1", "at least 0"]),
        (["callbacks.finite_loss.skip=some"], ["finite_loss.skip=some"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_rejected(typed, stopped, arguments, words):
    arguments = [a.format(run=stopped[0]) for a in arguments]
    assert_refused(typed("train", *arguments), *words)


def test_anomaly_file_cannot_run_foreign_code(stopped, tmp_path):
    saved = torch.load(stopped[0] / "anomaly.pt", weights_only=True)
    saved["config"]["model"]["network"] = {"_target_": "torch.nn.Conv2d", "in_channels": 1}
    torch.save(saved, tmp_path / "anomaly.pt")
    with pytest.raises(UserError, match=r"trust=\[torch\]"):
        replay(tmp_path / "anomaly.pt")

"""Losses by log-SNR, against independent recomputation."""

import csv
import math

import lightning as L
import numpy as np
import pytest
import torch

from diffusion_lab import compose_config, train
from diffusion_lab.callbacks import LossByNoise
from diffusion_lab.callbacks.monitoring.loss_by_log_snr import loss_by_noise_figure
from diffusion_lab.diffusion import (
    Flow,
    StraightPath,
)
from diffusion_lab.diffusion.log_snr import (
    implied_weighting,
)
from diffusion_lab.modules import DiffusionModule
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY, last_line
from tests.diffusion.test_log_snr import PLAIN, UNIFORM, sech


class Witness(L.Callback):
    """Record the inputs of LossByNoise."""

    def __init__(self):
        self.train, self.val = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, *args):
        self.train.append([outputs[k].clone() for k in ("t", "error", "losses")])

    def on_validation_start(self, *args):
        self.val.clear()

    def on_validation_batch_end(self, trainer, pl_module, outputs, *args):
        t, error = outputs["t"], outputs["error"]
        self.val.append([t, error, outputs["losses"]])


QUICK = (
    *TINY[:-2],
    "callbacks=loss_by_noise",
    "callbacks.samples=null",
    "callbacks.figures=null",
    "logger=csv",
    "model=flow",
    "network.width=8",
    "network.depth=1",
)


def watched(folder, *overrides):
    cfg = compose_config([*QUICK, *overrides], folder)
    witness = Witness()
    with pytest.MonkeyPatch.context() as patch:
        begin = LossByNoise.on_fit_start

        def on_fit_start(self, trainer, pl_module):
            trainer.callbacks.append(witness)
            begin(self, trainer, pl_module)

        patch.setattr(LossByNoise, "on_fit_start", on_fit_start)
        return train(cfg), witness


def read_table(folder):
    with (folder / "loss_by_noise.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_table_equals_the_images_losses(tmp_path):
    words = ["weighting=min_snr", "callbacks.loss_by_noise.bins=4", "trainer.limit_train_batches=5"]
    result, witness = watched(tmp_path, *words)
    schedule = result.module.noise_schedule
    rows = read_table(tmp_path)
    assert len(rows) == 8
    for split, kept in (("train", witness.train), ("val", witness.val)):
        t, error, loss = (torch.cat(each).double().numpy() for each in zip(*kept, strict=True))
        level = 2 * np.log((1 - t) / t)
        x0_error = error * t**2  # flow: the error on the target is that on x0 over t^2
        mine = [row for row in rows if row["split"] == split]
        assert sum(int(row["n"]) for row in mine) == len(t) == {"train": 20, "val": 4}[split]
        assert float(mine[0]["log_snr_low"]) == -math.inf
        assert float(mine[-1]["log_snr_high"]) == math.inf
        for row in mine:
            inside = (level > float(row["log_snr_low"])) & (level <= float(row["log_snr_high"]))
            assert int(row["n"]) == inside.sum()
            for name, values in (("error", error), ("x0_error", x0_error), ("loss", loss)):
                if inside.any():
                    assert float(row[name]) == pytest.approx(values[inside].mean(), rel=1e-5)
                if inside.sum() > 1:
                    se = values[inside].std(ddof=1) / inside.sum() ** 0.5
                    assert float(row[f"{name}_se"]) == pytest.approx(se, rel=1e-3)
    assert torch.allclose(schedule.alpha(witness.train[0][0]), 1 - witness.train[0][0])
    assert (tmp_path / "figures" / "loss_by_noise.png").is_file()
    # the mean over the bins is the loss that was logged
    last = [row for row in rows if row["split"] == "val" and int(row["n"])]
    mean = sum(int(row["n"]) * float(row["error"]) for row in last) / 4
    assert mean == pytest.approx(float(result.metrics["val/loss"]), rel=1e-5)


def test_fractions_are_of_the_whole_loss():
    """By hand: bins with a sum of losses of 20, none and 30, two wide."""
    edges = np.linspace(-3, 3, 4)
    some = {"n": [10, 0, 30], "loss": [2.0, math.nan, 1.0]}
    some |= {kind: [1.0, math.nan, 0.5] for kind in ("error", "x0_error")}
    some |= {f"{kind}_se": [0.1] * 3 for kind in ("error", "x0_error")}
    none = {name: [0 if name == "n" else math.nan] * 3 for name in some}
    implied = implied_weighting(UNIFORM, StraightPath(), PLAIN, Flow())
    _, _, share, weighting = loss_by_noise_figure(edges, {"train": some, "val": none}, implied).axes
    training, drawn = share.lines
    np.testing.assert_allclose(training.get_ydata(), [0.2, 0, 0.3])
    np.testing.assert_allclose(training.get_xdata(), [-2, 0, 2])
    level = drawn.get_xdata()
    np.testing.assert_allclose(drawn.get_ydata(), sech(level / 4) ** 2 / 8, rtol=0.02)
    assert [text.get_text() for text in share.get_legend().get_texts()] == [
        "training",
        "density of noise levels",
    ]
    for line, sign in zip(weighting.lines, (1, -1), strict=True):
        expected = np.exp(sign * line.get_xdata() / 2)
        np.testing.assert_allclose(line.get_ydata(), expected / expected.max(), rtol=0.05)


@pytest.mark.slow
def test_training_is_the_same_with_it(tmp_path):
    weights = []
    for words in ([], ["callbacks.loss_by_noise=null"]):
        cfg = compose_config([*QUICK, *words], tmp_path / str(len(words)))
        weights.append(train(cfg).module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


@pytest.mark.slow
def test_resumed_run_has_the_same_table(tmp_path, typed):
    words = [*QUICK, "trainer.limit_train_batches=4", "trainer.max_epochs=9"]
    for name, steps in (("whole", 6), ("half", 3)):  # in the middle of an epoch
        train(compose_config([*words, f"trainer.max_steps={steps}"], tmp_path / name))
    record = tmp_path / "half" / "metrics.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    code, _, err = typed("train", f"resume={tmp_path / 'half'}", "trainer.max_steps=6")
    assert code == 0, err
    rows = read_table(tmp_path / "half")
    assert rows == read_table(tmp_path / "whole")
    # the epoch of four batches, and the two of the one that was cut short
    assert sum(int(row["n"]) for row in rows if row["split"] == "train") == 6 * 4


@pytest.mark.slow
def test_short_last_window_joins_the_one_before(tmp_path):
    more = ["trainer.max_epochs=3", "callbacks.loss_by_noise.every_n_epochs=2"]
    watched(tmp_path, *more)
    count = sum(int(row["n"]) for row in read_table(tmp_path) if row["split"] == "train")
    assert count == 3 * 2 * 4  # two epochs were a window, the third is half of one


@pytest.mark.slow
def test_accumulated_batches_count_once_and_the_loss_is_undivided(tmp_path):
    _, witness = watched(tmp_path, "trainer.accumulate_grad_batches=2")
    rows = [row for row in read_table(tmp_path) if row["split"] == "train" and int(row["n"])]
    total = sum(int(row["n"]) * float(row["loss"]) for row in rows)
    assert total == pytest.approx(float(torch.cat([w[2] for w in witness.train]).sum()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["weighting=learned"], ["model=edm"], ["model=ddpm"]], ids=str)
def test_other_objectives_and_precisions(tmp_path, words):
    more = ["network=unet_fast", "trainer.precision=bf16-mixed"]
    watched(tmp_path, *words, *more)
    for row in read_table(tmp_path):
        assert int(row["n"]) == 0 or math.isfinite(float(row["x0_error"]))


def test_non_finite_image_is_left_out():
    module = DiffusionModule(torch.nn.Identity(), StraightPath(), Flow())
    callback = LossByNoise(bins=2)
    callback.edges = torch.tensor([-1.0, 0.0, 1.0]).double()
    t = torch.tensor([0.3, 0.3, 0.7])
    error = torch.tensor([1.0, torch.nan, 2.0])
    callback._add("train", module, error, error, t)
    assert callback.sums["train"][:, 0].tolist() == [1, 1]
    assert callback.sums["train"][:, 1].tolist() == [2, 1]


def test_state_is_plain_and_restored():
    callback, again = LossByNoise(3), LossByNoise(3)
    callback.sums["train"] += torch.rand(3, 7, dtype=torch.float64)
    callback.written += 1 / 3
    again.load_state_dict(callback.state_dict())
    assert torch.equal(again.sums["train"], callback.sums["train"])
    assert torch.equal(again.sums["val"], callback.sums["val"])
    assert torch.equal(again.written, callback.written)
    assert all(isinstance(value, list) for value in callback.state_dict().values())


@pytest.mark.slow
def test_two_processes_add_up(command, tmp_path):
    words = [*QUICK, "trainer.devices=2", "trainer.strategy=ddp"]
    run = last_line(command("train", *words, f"hydra.run.dir={tmp_path / 'run'}"))
    counts = {
        s: sum(int(r["n"]) for r in read_table(run) if r["split"] == s) for s in ("train", "val")
    }
    assert counts == {"train": 2 * 2 * 4, "val": 4}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bins", "every_n_epochs"])
def test_rejected(typed, name):
    words = ["callbacks=loss_by_noise", f"callbacks.loss_by_noise.{name}=0"]
    assert_refused(typed("train", *TINY, *words), f"{name}=0", "at least 1")

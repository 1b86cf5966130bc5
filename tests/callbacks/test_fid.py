"""FID during training: value, time budget, monitoring, several processes."""

import csv
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy import linalg

from diffusion_lab import compose_config, train
from diffusion_lab.callbacks import FID, FIDEstimate
from diffusion_lab.callbacks.samples import cost_estimate as forecasting
from diffusion_lab.callbacks.samples import fid
from diffusion_lab.callbacks.samples import time_budget as budget
from diffusion_lab.callbacks.samples.cost_estimate import Forecast
from diffusion_lab.commands.train_extractor import train_extractor
from diffusion_lab.config.groups import make_sampler
from diffusion_lab.config.instantiate import build
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion import sample_steps
from diffusion_lab.evaluation.features.load import load_extractor
from diffusion_lab.runs.load import load_run
from diffusion_lab.scoring.draw_set import counting
from diffusion_lab.system.lightning import callbacks_of
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY, last_line

N = 70  # more than the extractor has features
FAKE = {"name": "fake", "num_images": 60, "num_test_images": 100, "val_size": 20}


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    """Folder of an extractor trained briefly on synthetic images; any network would do."""
    out = tmp_path_factory.mktemp("extractors") / "tiny"
    settings = {
        "version": "tiny",
        "out": str(out),
        "data": FAKE,
        "max_epochs": 1,
        "lr": 0.001,
        "weight_decay": 0.0,
        "shift": 0.0,
        "rotation": 0.0,
        "scale": 0.0,
        "seed": 0,
        "accelerator": "cpu",
    }
    train_extractor(OmegaConf.create(settings))
    return out


@pytest.fixture
def words(extractor):
    """Overrides for a small run that estimates FID."""
    return [
        *(word for word in TINY if not word.startswith("callbacks.")),
        "model=flow",
        "network=unet_fast",
        "network.width=8",
        "network.depth=1",
        "logger=csv",
        "callbacks=fid",
        "callbacks.samples=null",
        "callbacks.figures=null",
        f"callbacks.fid.extractor={extractor}",
        f"callbacks.fid.num_samples={N}",
        "callbacks.fid.batch_size=23",  # batches begin at other classes than the first
    ]


def saved(run_dir, name="last"):
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def estimates(run_dir, name="last"):
    return saved(run_dir, name)["callbacks"]["FIDEstimate"]["estimates"]


def recomputed(run_dir, extractor, seed=0):
    """Compute FID independently: image by image, by eigenvalues, with fresh reference features."""
    run = load_run(run_dir)
    look = load_extractor(str(extractor))
    sampler = make_sampler("flow_euler", num_steps=2)
    images = []
    for k in range(N):
        labels = torch.tensor([k % 10])
        denoise = run.module.denoise
        if run.module.num_classes:
            denoise = lambda x, t, labels=labels: run.module.denoise(x, t, labels)  # noqa: E731
        *_, last = sample_steps(
            denoise,
            run.module.noise_schedule,
            sampler,
            run.image_shape,
            num_images=1,
            first=k,
            seed=seed,
        )
        images.append(run.value_range.decode(last.x_next))
    x = look(torch.cat(images)).values
    y = look(ImageDataModule(**FAKE).image_set().test_images).values
    covariances = [np.cov(of, rowvar=False) for of in (x, y)]
    roots = np.sqrt(linalg.eigvals(covariances[0] @ covariances[1]).real.clip(min=0))
    distance = np.square(x.mean(0) - y.mean(0)).sum()
    return distance + np.trace(covariances[0] + covariances[1]) - 2 * roots.sum()


@pytest.mark.slow
def test_value_equals_fid_of_the_runs_images(words, extractor, tmp_path):
    more = ["model.num_classes=10", "callbacks.fid.seed=3", "sampler=flow_euler"]
    result = train(compose_config([*words, *more], tmp_path))
    by_hand = recomputed(tmp_path, extractor, seed=3)
    assert by_hand > 1e-4
    assert result.metrics[FID] == pytest.approx(by_hand, rel=1e-3)
    assert estimates(tmp_path) == [(2, pytest.approx(by_hand, rel=1e-3))]
    assert recomputed(tmp_path, extractor, seed=4) != pytest.approx(by_hand, rel=1e-3)
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        logged = [row for row in csv.DictReader(file) if row[FID]]
    assert [(row["step"], float(row[FID])) for row in logged] == [("1", result.metrics[FID])]


@pytest.mark.slow
def test_training_is_the_same_with_and_without(words, tmp_path):
    train(compose_config([*words, "trainer.max_epochs=2"], tmp_path / "with"))
    words = [word for word in words if not word.startswith("callbacks")]
    train(compose_config([*words, "callbacks=minimal", "trainer.max_epochs=2"], tmp_path / "off"))
    one, other = saved(tmp_path / "with"), saved(tmp_path / "off")
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, other["state_dict"][name])
    assert torch.equal(one["random"][0]["torch"], other["random"][0]["torch"])


def test_off_by_default():
    assert "fid" not in compose_config([]).callbacks


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock (10 s per epoch, 3 s per estimate) and the FID values."""

    def start(*values):
        now = SimpleNamespace(seconds=0.0)
        look, given = FIDEstimate._features, iter(values)

        def passes(seconds):
            now.seconds += seconds

        def looking(self, *args):
            passes(3)
            return look(self, *args)

        monkeypatch.setattr(budget, "monotonic", lambda: now.seconds)
        monkeypatch.setattr(
            FIDEstimate, "on_train_epoch_start", lambda *_: passes(10), raising=False
        )
        monkeypatch.setattr(FIDEstimate, "_features", looking)
        monkeypatch.setattr(FIDEstimate, "_cost", lambda *_: (2, 3.0))
        monkeypatch.setattr(fid, "frechet_distance", lambda *_: next(given))

    return start


@pytest.mark.slow
@pytest.mark.parametrize("validate_every", [1, 2])
def test_estimates_are_postponed_and_monitored_once(words, clock, tmp_path, caplog, validate_every):
    """By hand: 3/33 is the first fraction below 0.1, then 6/66 (6/56 is not)."""
    clock(5.0, 3.0, 4.0)
    more = [
        "trainer.max_epochs=7",
        "monitor=val/fid",
        f"trainer.check_val_every_n_epoch={validate_every}",
    ]
    with caplog.at_level(logging.INFO, "diffusion_lab"):
        result = train(compose_config([*words, *more], tmp_path))
    assert estimates(tmp_path) == [(6, 5.0), (12, 3.0), (14, 4.0)]
    assert result.metrics[FID] == 4.0
    best = saved(tmp_path, "best")
    assert best["global_step"] == 12 and best["metrics"][FID] == 3.0
    assert caplog.text.count("FID postponed") == 1
    cost = "about 3 s every epoch and at the end (2 network evaluations per image)"
    assert cost in caplog.text
    assert "above callbacks.fid.share=0.1" in caplog.text


@pytest.mark.slow
def test_patience_counts_estimates(words, clock, tmp_path):
    clock(5.0, 6.0)
    more = ["callbacks=[fid,early_stopping]", "monitor=val/fid", "trainer.max_epochs=20"]
    more += ["callbacks.early_stopping.patience=1", "callbacks.fid.share=null"]
    words = [word for word in words if word != "callbacks=fid"]
    train(compose_config([*words, *more, "callbacks.fid.every_n_epochs=3"], tmp_path))
    assert estimates(tmp_path) == [(6, 5.0), (12, 6.0)]
    assert saved(tmp_path)["global_step"] == 12
    assert saved(tmp_path, "best")["global_step"] == 6


def test_unexpected_end_has_a_final_estimate(words, clock, tmp_path):
    clock(5.0)
    more = ["callbacks=[fid,early_stopping]", "trainer.max_epochs=20"]
    more += ["callbacks.early_stopping.patience=1", "+callbacks.early_stopping.min_delta=100"]
    words = [word for word in words if word != "callbacks=fid"]
    result = train(compose_config([*words, *more, "callbacks.fid.every_n_epochs=9"], tmp_path))
    assert result.trainer.global_step == 4
    assert result.metrics[FID] == 5.0
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row[FID]] == ["3"]


@pytest.mark.slow
def test_resumed_run_keeps_its_estimates(words, clock, tmp_path, typed):
    clock(5.0, 4.0)
    train(compose_config([*words, "callbacks.fid.share=null"], tmp_path / "run"))
    first = saved(tmp_path / "run")["callbacks"]["FIDEstimate"]
    assert first["budget"] == {"spent": 3.0, "elapsed": 13.0}
    code, out, err = typed("train", f"resume={tmp_path / 'run'}", "trainer.max_epochs=2")
    assert code == 0, out + err
    second = saved(tmp_path / "run")["callbacks"]["FIDEstimate"]
    assert second["estimates"] == [(2, 5.0), (4, 4.0)]
    assert second["budget"] == {"spent": 6.0, "elapsed": 26.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["callbacks=fid"], ["data=fake", "train_extractor.py", "callbacks.fid.extractor="]),
        (["callbacks=fid", "callbacks.fid.share=0"], ["callbacks.fid.share=0", "null"]),
        (["callbacks=fid", "callbacks.fid.every_n_epochs=0"], ["every_n_epochs=0", "at least 1"]),
        (["callbacks=fid", "callbacks.fid.extractor=nowhere"], ["extractor=nowhere"]),
        (["monitor=val/fid"], ["val/fid is not measured", "callbacks=fid"]),
    ],
)
def test_rejected_before_the_first_epoch(overrides, expected, typed):
    assert_refused(typed("train", *TINY, *overrides), *expected)


def test_fewer_images_than_features_are_rejected(words, typed):
    refused = typed("train", *words, "callbacks.fid.num_samples=64")
    assert_refused(refused, "callbacks.fid.num_samples=64", "64 features", "num_samples=2000")


def test_the_number_of_images_that_is_recommended_is_enough(words, typed, monkeypatch):
    """The default is less than Inception has features."""
    inception = SimpleNamespace(name="inception", num_features=2048, fit=lambda images: images)
    monkeypatch.setattr(
        "diffusion_lab.callbacks.samples.fid.load_extractor", lambda *arguments: inception
    )
    refused = typed("train", *words, "callbacks.fid.num_samples=2000")
    assert_refused(refused, "than the 2048 features of inception", "callbacks.fid.num_samples=4096")


@pytest.mark.parametrize(
    ("word", "steps"), [("flow_euler", 4), ("heun", 4), ("langevin", 6), ("euler", 1)]
)
def test_network_evaluations_are_predicted(words, extractor, word, steps, monkeypatch):
    module = build(compose_config([*words, "model=ddpm", "network.width=8"]).model)
    sampler, data = make_sampler(word, num_steps=steps), ImageDataModule(**FAKE)
    forecast = Forecast(module, data, sampler)
    with counting(module.network) as seen:
        path = module.noise_schedule
        list(sample_steps(module.denoise, path, sampler, (1, 28, 28), num_images=1, seed=0))
        assert forecast.num_calls == seen()
        # by a clock that moves by a second for every image in a call, and for nothing else
        monkeypatch.setattr(forecasting, "monotonic", seen)
        for batch_size in (1, 4, 8):
            seconds = forecast.seconds_per_image(load_extractor(str(extractor)), batch_size)
            assert seconds == forecast.num_calls


@pytest.mark.slow
def test_two_processes_give_what_one_gives(words, extractor, command):
    """Neither process waits forever where the first one's clock postpones an estimate."""
    process = command(
        "train",
        *words,
        "sampler=flow_euler",
        "trainer.max_epochs=2",
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "monitor=val/fid",
        OMP_NUM_THREADS="1",
    )
    run_dir = last_line(process)
    [(step, value)] = estimates(run_dir, "best")
    assert step == saved(run_dir)["global_step"]
    assert value == pytest.approx(recomputed(run_dir, extractor), rel=1e-3)
    assert process.stdout.count("FID postponed") == 1


def test_fast_dev_run_leaves_fid_out(words, tmp_path):
    more = ["trainer.fast_dev_run=true", "monitor=val/fid"]
    result = train(compose_config([*words, *more], tmp_path))
    assert callbacks_of(result.trainer, FIDEstimate) == []

"""The function train()."""

import json
import math
from pathlib import Path

import pytest
import torch

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.errors import UserError
from tests.conftest import TINY


def test_train_returns_its_objects_and_a_complete_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train(compose_config([*TINY, "model=flow"]))
    assert result.run_dir.parent == tmp_path / "logs" / "runs"
    assert "_flow_" in result.run_dir.name
    assert (result.run_dir / ".hydra" / "config.yaml").is_file()
    record = json.loads((result.run_dir / "metrics.json").read_text())
    assert record["overrides"] == [*TINY, "model=flow"]
    run = load_run(result.run_dir, weights="raw")
    for name, value in result.module.state_dict().items():
        assert torch.equal(value, run.module.state_dict()[name])
    assert run.config["command"]["choices"]["model"] == "flow"
    x = torch.rand(2, *run.image_shape)
    assert run.module.denoise(x, torch.tensor([0.5, 0.9])).shape == x.shape


def test_mistakes_raise_user_errors(tmp_path):
    with pytest.raises(UserError, match=r"data\.batch_size=0"):
        train(compose_config([*TINY, "data.batch_size=0"], tmp_path))
    with pytest.raises(UserError, match="nosuch"):
        compose_config(["nosuch=1"])
    with pytest.raises(UserError, match="no folder"):
        load_run(tmp_path / "nowhere")
    assert json.loads((tmp_path / "metrics.json").read_text())["status"] == "failed"


def test_max_steps_within_an_epoch_validates_and_saves_best(tmp_path):
    overrides = [*TINY, "trainer.limit_train_batches=5", "trainer.max_steps=3"]
    result = train(compose_config(overrides, tmp_path))
    assert result.trainer.global_step == 3
    assert "val/loss" in result.metrics
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.slow
def test_fewer_images_than_a_figure_shows(tmp_path):
    """Overfitting on a few images is a usual first test."""
    words = [word for word in TINY if word != "callbacks.figures=null"]
    train(compose_config([*words, "data.train_size=3"], tmp_path))
    assert (tmp_path / "figures" / "predictions.png").is_file()


def test_run_composed_in_python_uses_the_given_folder(tmp_path):
    cfg = compose_config([*TINY, f"paths.log_dir={tmp_path}"])
    assert Path(cfg.paths.output_dir).parent == tmp_path / "runs"


@pytest.mark.parametrize("model", ["flow time_sampling=logit_normal weighting=learned", "edm"])
def test_bf16_true_with_noise_levels_by_quantile(model, tmp_path):
    words = [*TINY, *f"model={model}".split(), "network.width=8", "trainer.precision=bf16-true"]
    assert math.isfinite(train(compose_config(words, tmp_path)).metrics["train/loss_epoch"])


def test_early_stopping_stops(tmp_path):
    overrides = [*TINY, "callbacks=early_stopping", "optimizer.lr=0.0", "trainer.max_epochs=50"]
    result = train(compose_config(overrides, tmp_path))
    assert result.trainer.current_epoch == 4  # one to begin with, and a patience of three


def test_accumulated_batches_count_once(tmp_path):
    overrides = [*TINY, "trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=4"]
    result = train(compose_config(overrides, tmp_path))
    assert result.trainer.global_step == 2
    lines = (tmp_path / "losses.csv").read_text().splitlines()
    losses = [float(line.split(",")[1]) for line in lines[1:]]
    assert len(losses) == 4
    assert sum(losses) / 4 == pytest.approx(result.metrics["train/loss_epoch"], rel=1e-5)
    assert min(losses) > 0.5 * max(losses)  # not divided by the number of accumulated batches


@pytest.mark.slow
def test_the_learning_rate_follows_the_clock(tmp_path):
    """With max_time, progress is the fraction of the time, so the schedule reaches its end."""
    overrides = [
        *TINY,
        "lr_scheduler=cosine",
        "trainer.max_epochs=-1",
        "trainer.max_time=00:00:00:04",
    ]
    result = train(compose_config([*overrides, "callbacks.samples=null"], tmp_path))
    assert result.trainer.global_step > 2
    assert result.trainer.optimizers[0].param_groups[0]["lr"] < 1e-4


@pytest.mark.slow
def test_finished_run_frees_its_model(tmp_path, monkeypatch):
    import gc
    import weakref

    result = train(compose_config(TINY, tmp_path))
    module = weakref.ref(result.module)
    del result
    gc.collect()
    assert module() is None

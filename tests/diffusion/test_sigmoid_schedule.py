"""noise_schedule=sigmoid_jabri is the paper's formula, and noise_schedule=sigmoid is not."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.config.groups import noise_schedules, option
from diffusion_lab.diffusion import SigmoidSchedule, VPSchedule
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY, TINY_UNET_WORDS, last_line


def papers(num_timesteps, start=-3.0, end=3.0, tau=1.0, clip_min=1e-9):
    """gamma(t) of Jabri et al. 2022 with t in (0, 1], recomputed with NumPy."""
    t = np.linspace(0, 1, num_timesteps + 1)[1:]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    v_start, v_end = sigmoid(start / tau), sigmoid(end / tau)
    gamma = (v_end - sigmoid((t * (end - start) + start) / tau)) / (v_end - v_start)
    return np.clip(gamma, clip_min, 1.0)


@pytest.mark.parametrize("num_timesteps", [2, 10, 100, 1000, 4000])
@pytest.mark.parametrize(
    "settings", [{}, {"start": 0.0, "tau": 0.9}, {"tau": 0.3}, {"clip_min": 1e-4}], ids=str
)
def test_alpha_bar_is_the_papers(num_timesteps, settings):
    schedule = SigmoidSchedule(num_timesteps, **settings)
    expected = papers(num_timesteps, **settings)
    t = torch.arange(num_timesteps)
    alpha_bar = (schedule.alpha(t) ** 2).double().numpy()
    np.testing.assert_allclose(alpha_bar, expected, rtol=0.02, atol=2e-6)  # betas are float32
    np.testing.assert_allclose(schedule.sigma(t) ** 2, 1 - expected, atol=2e-6)


def test_the_other_sigmoid_is_that_of_the_betas():
    ours = noise_schedules()
    apart = np.abs(ours["sigmoid"].alphas_cumprod.numpy() - papers(1000))
    assert 0.25 < apart.max() < 0.27
    betas = 1e-4 + (0.02 - 1e-4) * torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64))
    geodiff = (1 - betas).cumprod(0).float()
    torch.testing.assert_close(ours["sigmoid"].alphas_cumprod, geodiff, rtol=1e-4, atol=1e-6)
    assert np.abs(ours["sigmoid_jabri"].alphas_cumprod.numpy() - papers(1000)).max() < 1e-6


@pytest.mark.slow
def test_the_word_as_it_is_typed(command, tmp_path):
    words = [*TINY, "model=ddpm", *TINY_UNET_WORDS, "noise_schedule=sigmoid_jabri"]
    folder = last_line(command("train", *words, "noise_schedule.tau=0.8"))
    saved = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["config"]
    assert saved["command"]["choices"]["noise_schedule"] == "sigmoid_jabri"
    run = load_run(folder)
    assert isinstance(run.module.noise_schedule, VPSchedule)
    alpha_bar = run.module.noise_schedule.alphas_cumprod.numpy()
    np.testing.assert_allclose(alpha_bar, papers(1000, tau=0.8), rtol=0.02, atol=2e-6)
    assert run.sample(2).shape == (2, 1, 28, 28)

    last_line(command("export", f"run={folder}", f"out={tmp_path / 'exported'}"))
    scheduler = DDIMPipeline.from_pretrained(tmp_path / "exported").scheduler
    np.testing.assert_allclose(scheduler.alphas_cumprod, alpha_bar)


@pytest.mark.slow
def test_a_page_explains_it(typed):
    code, out, err = typed("explain", "model=ddpm", "noise_schedule=sigmoid_jabri", *TINY)
    assert code == 0, err
    assert "arXiv 2212.11972" in out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("noise_schedule.tau=0", "tau=0,"),
        ("noise_schedule.start=4", "start < end"),
        ("noise_schedule.clip_min=0", "clip_min=0:"),
        ("noise_schedule.num_train_timesteps=1", "num_train_timesteps=1"),
        ("noise_schedule.tau=wide", "a number"),
    ],
)
def test_settings_that_make_no_sense(typed, word, said):
    assert_refused(typed("train", *TINY, "model=ddpm", "noise_schedule=sigmoid_jabri", word), said)


@pytest.mark.slow
def test_it_learns_what_it_is_asked(tmp_path):
    """The losses of a training are those of the paper's noise levels, recomputed."""
    words = [*TINY, "model=ddpm", "network=unet_fast", "network.width=8", "optimizer.lr=0"]
    more = ["noise_schedule=sigmoid_jabri", "callbacks.ema=null", "callbacks.samples=null"]
    result = train(compose_config([*words, *more], tmp_path))
    module, data = result.module.eval(), result.datamodule
    x0, *_ = next(iter(data.val_dataloader()))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x0.shape, generator=generator)
    t = option("time_sampling", "uniform").draw(len(x0), SigmoidSchedule(), "cpu", generator)
    level = torch.from_numpy(papers(1000)).float()[t][:, None, None, None]
    with torch.no_grad():
        predicted = module(level.sqrt() * x0 + (1 - level).sqrt() * noise, t)
    loss = (predicted - noise).square().mean().item()
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["val/loss"] == (
        pytest.approx(loss, rel=1e-3)
    )

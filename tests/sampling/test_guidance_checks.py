"""Guidance as a setting of a training: rejected values and estimated cost."""

import pytest
import torch

from diffusion_lab import compose_config, train
from diffusion_lab.callbacks.samples import cost_estimate as forecasting
from diffusion_lab.callbacks.samples import sample_grid
from diffusion_lab.callbacks.samples.cost_estimate import Forecast
from diffusion_lab.config.groups import make_sampler
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion import VPSchedule, sample_steps
from diffusion_lab.evaluation.features.load import load_extractor
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.scoring.draw_set import counting
from tests.callbacks.test_fid import FAKE
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY
from tests.sampling.test_defaults import SMALL
from tests.sampling.test_guidance import random_module


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model=flow", "guidance_scale=2"], ["guidance_scale=2", "model.num_classes=10"]),
        (
            ["model=flow", "model.num_classes=10", "model.label_dropout=0", "guidance_scale=2"],
            ["guidance_scale=2", "model.label_dropout=0"],
        ),
        (["experiment=quickstart", "data.clusters=null"], ["guidance_scale=1.5", "needs classes"]),
        (["model=flow", "guidance_interval=[1,2]"], ["guidance_interval", "guidance_scale=1"]),
        (
            ["model=flow", "model.num_classes=10", "guidance_scale=2", "guidance_interval=[2,1]"],
            ["guidance_interval=[2, 1]", "low to high"],
        ),
        (["model=flow", "model.num_classes=10", "guidance_scale=nan"], ["nan", "finite"]),
        (["model=flow", "guidance_scale=strong"], ["guidance_scale", "strong"]),
        (
            ["model=flow", "callbacks.samples.guidance_scale=2"],
            ["guidance_scale=2", "no classes"],
        ),
    ],
    ids=lambda v: " ".join(v),
)
def test_invalid_guidance_is_rejected_before_training(typed, arguments, expected, tmp_path):
    folder = tmp_path / "run"
    result = typed("train", *TINY, *arguments, f"hydra.run.dir={folder}")
    assert_refused(result, *expected)
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(("word", "steps"), [("flow_euler", 4), ("heun", 4), ("dpm_solver", 6)])
@pytest.mark.parametrize("interval", [None, (0.5, 2.0)])
def test_the_cost_estimate_of_fid_includes_both_branches(word, steps, interval, bars, monkeypatch):
    module = random_module(schedule=VPSchedule() if word == "dpm_solver" else None)
    sampler, data = make_sampler(word, num_steps=steps), ImageDataModule(**FAKE)
    conditioning = Conditioning.of(module, None, 2.0, interval)
    forecast = Forecast(module, data, sampler, conditioning)
    with counting(module.network) as seen, torch.inference_mode():
        denoise = conditioning.denoiser(module, 0, 1)
        path = module.noise_schedule
        list(sample_steps(denoise, path, sampler, (1, 28, 28), num_images=1, seed=0))
        assert forecast.num_calls == seen()
        plain = sum(Conditioning().network_calls(sampler, path, (1, 28, 28)))
        assert seen() == 2 * plain if interval is None else plain < seen() < 2 * plain
        # with a clock that advances one second per image in a network evaluation
        monkeypatch.setattr(forecasting, "monotonic", seen)
        for batch_size in (1, 4):
            seconds = forecast.seconds_per_image(load_extractor(str(bars)), batch_size)
            assert seconds == forecast.num_calls


@pytest.mark.parametrize(("interval", "calls"), [("null", 10), ("[0.5,2]", 7)])
def test_the_cost_estimate_of_a_grid_includes_both_branches(
    interval, calls, tmp_path, monkeypatch, caplog
):
    """The clock advances a minute per image that the network evaluates, 6 without guidance.

    Only the third and fourth step lie in the interval; the second step is timed.
    """
    seen = [0]
    monkeypatch.setattr(sample_grid, "monotonic", lambda: 60 * seen[0])
    real = Conditioning.denoiser

    def denoiser(self, module, first, count):
        guided = real(self, module, first, count)
        inner = guided.denoise

        def counted(x_t, t, labels):
            seen[0] += len(x_t)
            return inner(x_t, t, labels)

        guided.denoise = counted
        return guided

    monkeypatch.setattr(Conditioning, "denoiser", denoiser)
    words = [*SMALL, f"guidance_interval={interval}", "callbacks.figures=null"]
    with caplog.at_level("INFO"):
        train(compose_config(words, tmp_path))
    (line,) = [text for text in caplog.messages if "samples left out" in text]
    assert f"samples left out, {6 * calls // 60}:{6 * calls % 60:02}:00 more would be" in line

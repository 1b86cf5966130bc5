"""docs/combinations.md and scripts/explain.py; every combination trains and samples."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from diffusion_lab.config.groups import (
    make_sampler,
    noise_schedules,
    option,
    predictions,
    refusal,
    spacings,
    words,
)
from diffusion_lab.diffusion import sample_steps
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.tools.combinations import combinations_page
from tests.conftest import EXHAUSTIVE, TINY, last_line
from tests.support.forked import ROOT


def test_page_agrees_with_the_checks():
    assert (ROOT / "docs" / "combinations.md").read_text() == combinations_page()


class TinyNet(nn.Module):
    """Network with a time input, small enough for every cell of the table."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.time = nn.Linear(1, 4)
        self.out = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x, time, labels=None):
        shift = self.time(time[:, None] / 1000)
        return self.out(torch.tanh(self.conv(x) + shift[:, :, None, None]))


@pytest.mark.parametrize("path", noise_schedules())
@pytest.mark.parametrize(
    "target",
    [
        pytest.param(
            name,
            marks={"v_prediction": (), "epsilon": pytest.mark.slow}.get(name, EXHAUSTIVE),
        )
        for name in predictions()
    ],
)
def test_every_cell_trains_two_steps_and_samples_two_images(path, target):
    torch.manual_seed(0)
    schedule, prediction = noise_schedules()[path], predictions()[target]
    if refusal(prediction, schedule) is not None:
        return
    # each weighting and each sampling of times; which of them meet differs from cell to cell
    weightings, samplings = words("weighting"), words("time_sampling")
    shift = list(noise_schedules()).index(path) + list(predictions()).index(target)
    for k in range(max(len(weightings), len(samplings))):
        weighting = weightings[k % len(weightings)]
        times = samplings[(k + shift) % len(samplings)]
        module = DiffusionModule(
            TinyNet(),
            schedule,
            prediction,
            weighting=option("weighting", weighting),
            time_sampling=option("time_sampling", times),
        )
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        for _ in range(2):
            x0 = torch.rand(4, 1, 8, 8)
            t = module.time_sampling.draw(4, schedule)
            loss = module.losses(x0, schedule.draw_noise(x0), t)[1].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert torch.isfinite(loss), (weighting, times)
    for word in words("sampler")[shift % 2 :: 2]:  # each with half of a path's predictions
        for spacing in spacings(word):
            # Langevin goes round each level five times, DDIM wants a divisor of the timesteps
            sampler = make_sampler(word, spacing, num_steps=6 if word == "langevin" else 5)
            if refusal(sampler, schedule) is None:
                *_, last = sample_steps(
                    module.denoise, schedule, sampler, (1, 8, 8), num_images=2, seed=0
                )
                assert torch.isfinite(last.x_next).all(), (word, spacing)


def test_explain_describes_the_combination(typed):
    code, out, err = typed("explain", *TINY, "model=flow", "prediction=v_prediction")
    assert code == 0, err
    assert "v_prediction on StraightPath" in out
    assert "345,412" in out and "compatible samplers: blend, ddim" in out
    folder = out.strip().splitlines()[-1]
    from pathlib import Path

    assert (Path(folder) / "weighting.png").is_file()
    assert "explained" in folder
    assert not list(Path(folder).glob("checkpoints"))


def test_flops_equal_a_count_by_hand():
    """A 5x5 convolution is 2 x 25 x in x out x pixels; BasicUNet has six of them."""
    from diffusion_lab.modules import BasicUNetModule
    from diffusion_lab.modules.cost import cost

    found = cost(BasicUNetModule(), (1, 28, 28), batch_size=2)
    layers = [(1, 32, 28), (32, 64, 14), (64, 64, 7), (64, 64, 7), (64, 32, 14), (32, 1, 28)]
    assert found["flops"] == sum(2 * 25 * a * b * side**2 for a, b, side in layers)
    assert found["parameters"] == 309_057


def test_a_step_of_a_large_network_is_timed_with_fewer_images(monkeypatch):
    from diffusion_lab.modules import BasicUNetModule, cost

    module = BasicUNetModule()
    sizes = []
    losses = module.losses
    module.losses = lambda x0, *more: sizes.append(len(x0)) or losses(x0, *more)
    flops = cost.cost(module, (1, 8, 8), batch_size=6)["flops"]
    monkeypatch.setattr(cost, "LARGEST_STEP", 2.5 * flops)
    found = cost.cost(module, (1, 8, 8), batch_size=6)
    monkeypatch.setattr(cost, "LARGEST_STEP", 0.5 * flops)
    assert cost.cost(module, (1, 8, 8), batch_size=6)["timed_images"] == 1
    assert sizes == [6] * 4 + [2] * 4 + [1] * 4
    assert found["timed_images"] == 2 and found["step_seconds"] > 0


def test_explain_rejects_incompatible_options(typed):
    code, _, err = typed("explain", *TINY, "model=flow", "prediction=epsilon")
    assert code == 2 and err.startswith("error: prediction=epsilon")


@pytest.mark.slow
def test_runs_of_other_paths_are_sampled_from_their_folder(command, tmp_path):
    run = last_line(command("train", *TINY, "model=score_matching"))
    for sampler in ("langevin", "blend", "ddim", "edm_euler"):
        steps = 10 if sampler == "ddim" else 11
        words = (f"sampler={sampler}", f"sampler.num_steps={steps}", "num_samples=2")
        out = last_line(command("sample", f"run={run}", *words))
        assert np.load(out / "samples.npz")["images"].shape == (2, 1, 28, 28)
        assert json.loads((out / "samples.json").read_text())["sampler"]["num_steps"] == steps

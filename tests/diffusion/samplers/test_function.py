"""A sampler that is a plain function, from its file to images."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from diffusion_lab.config.groups import make_sampler, noise_schedules
from diffusion_lab.diffusion import FunctionSampler, function_sampler, sample_steps
from diffusion_lab.diffusion.ideal_denoiser import GaussianOracle
from diffusion_lab.errors import UserError
from tests.conftest import RUN

MEAN, STD = -0.3, 0.4
FILE = """
import torch
from diffusion_lab.diffusion import function_sampler


def euler(denoise, x, sigmas):
    for sigma, following in zip(sigmas[:-1], sigmas[1:]):
        slope = (x - denoise(x, sigma)) / sigma
        x = x + (following - sigma) * slope
    return x


@function_sampler
def decorated(denoise, x, sigmas, scale=1.0):
    return scale * euler(denoise, x, sigmas)
"""


def euler(denoise, x, sigmas):
    for sigma, following in pairwise(sigmas):
        x = x + (following - sigma) * (x - denoise(x, sigma)) / sigma
    return x


def ancestral(model, x, sigmas, noise_sampler=None):
    """Euler-Maruyama, which calls the model as k-diffusion does, with one sigma an image."""
    ones = x.new_ones(len(x))
    for sigma, following in pairwise(sigmas):
        drop = sigma**2 - following**2
        x = x + drop / sigma**2 * (model(x, sigma * ones) - x)
        if following > 0:
            x = x + drop.sqrt() * noise_sampler(sigma, following)
    return x


def images(sampler, path, num_images=8, shape=(1, 32, 32)):
    steps = list(
        sample_steps(
            GaussianOracle(path, MEAN, STD), path, sampler, shape, num_images=num_images, seed=0
        )
    )
    return steps, steps[-1].x_next


@pytest.mark.parametrize("word", [w for w in noise_schedules() if w != "blend_uniform"])
def test_eulers_function_is_the_blend_on_every_path(word):
    """Both are one formula in other coordinates; a path that ends at pure noise begins at 80."""
    path = noise_schedules()[word]
    steps, ours = images(FunctionSampler(euler, num_steps=40), path)
    theirs, blend = images(make_sampler("blend", num_steps=40), path)
    ends = path.max_ratio == torch.inf
    torch.testing.assert_close(ours, blend, atol=0.02 if ends else 5e-3, rtol=0)
    assert len(steps) == 40
    for step, other in list(zip(steps, theirs, strict=True))[1 if ends else 0 :]:
        torch.testing.assert_close(step.t.float(), other.t.float(), rtol=1e-3, atol=1e-3)


def test_a_stochastic_function_gets_the_noise_of_each_image():
    path = noise_schedules()["blend_gaussian"]
    sampler = FunctionSampler(ancestral, num_steps=100)
    assert sampler.stochastic and not FunctionSampler(euler, num_steps=2).stochastic
    _, all_of_them = images(sampler, path)
    assert all_of_them.std() == pytest.approx(STD, abs=0.03)
    _, first = images(sampler, path, num_images=1)
    torch.testing.assert_close(first[0], all_of_them[0], atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="ancestral adds Gaussian noise"):
        sampler.check(noise_schedules()["blend_uniform"])


def test_the_noise_levels():
    seen = []

    def look(denoise, x, sigmas):
        seen.append((x.std().item(), sigmas.tolist()))
        return denoise(x, sigmas[0])

    for steps in (4, 200):
        images(FunctionSampler(look, num_steps=steps), noise_schedules()["blend_gaussian"])
    scale, sigmas = seen[0]
    assert sigmas == pytest.approx([80, 3, 1, 1 / 3, 0]) and scale == pytest.approx(80, rel=0.05)
    assert seen[1][1][:3] == pytest.approx([398, 199, 99], rel=1e-4)


def test_something_else_than_images_is_returned():
    def wrong(denoise, x, sigmas):
        return x[0, 0]

    with pytest.raises(
        UserError, match=r"wrong returned .*\[32, 32\]: expected the images, of shape \[8, 1"
    ):
        images(FunctionSampler(wrong, num_steps=1), noise_schedules()["edm"])


def test_more_steps_than_the_path_has():
    with pytest.raises(UserError, match="1000 timesteps"):
        FunctionSampler(euler, num_steps=1001).check(noise_schedules()["linear"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("sampler._target_=my_samplers.decorated", "+sampler.scale=1.0"),
        (
            "sampler._target_=diffusion_lab.diffusion.FunctionSampler",
            "+sampler.function={_target_:my_samplers.euler,_partial_:true}",
        ),
    ],
    ids=["decorated", "plain"],
)
def test_it_trains_and_samples_by_name(words, typed, tmp_path):
    (tmp_path / "my_samplers.py").write_text(FILE)
    base = [word for word in RUN if not word.startswith("sampler.")]
    training = ["trainer.max_epochs=1", "callbacks=default", "callbacks.figures=null"]
    training += ["callbacks.samples.num_samples=4", "sampler.num_steps=3"]
    code, _, err = typed("train", *base, *training, *words, "hydra.run.dir=run")
    assert code == 0, err
    draw = ("run=run", "trust=[my_samplers]", "num_samples=3", "seed=1")
    code, _, err = typed("sample", *draw, "out=own")
    assert code == 0, err
    code, _, err = typed("sample", *draw, "sampler=blend", "sampler.num_steps=3", "out=blend")
    assert code == 0, err
    with np.load(tmp_path / "own/samples.npz") as own, np.load(tmp_path / "blend/samples.npz") as b:
        difference = np.abs(own["images"].astype(int) - b["images"].astype(int))
    assert difference.mean() < 3  # of 255: the first step begins at 80 and not at infinity
    assert json.loads((tmp_path / "run/metrics.json").read_text())["status"] == "finished"


def test_the_decorator_keeps_the_name():
    made = function_sampler(euler)
    assert (made.__module__, made.__qualname__) == (euler.__module__, "euler")
    assert made(num_steps=5).name == "euler"

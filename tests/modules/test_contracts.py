"""Parts of the user's own: what breaks a contract is told before a training begins."""

import logging
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

import diffusion_lab as dl
from diffusion_lab.diffusion import (
    BlendSampler,
    Flow,
    FunctionSampler,
    LinearSchedule,
    Sampler,
    Step,
    UniformWeighting,
)
from diffusion_lab.errors import UserError
from diffusion_lab.modules.contracts import check_contracts, check_sampler

SHAPE = (1, 8, 8)
FILE = Path(__file__).relative_to(Path.cwd())


class Net(nn.Module):
    def __init__(self, rows=None):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.label = None if rows is None else nn.Embedding(rows, 1)

    def forward(self, x, time, labels=None):
        shift = 0 if self.label is None else self.label(labels)[:, :, None, None]
        return self.scale * x + shift


class Identity(nn.Module):
    def forward(self, x, time, labels=None):
        return x


class Schedule(LinearSchedule):
    pass


class Velocity(Flow):
    pass


class Even(UniformWeighting):
    pass


class Walk(BlendSampler):
    pass


def module(network=None, schedule=None, prediction=None, weighting=None, num_classes=None):
    return dl.DiffusionModule(
        network or Net(),
        schedule or Schedule(),
        prediction or Velocity(),
        weighting=weighting or Even(),
        num_classes=num_classes,
    )


def test_parts_that_keep_their_contracts_pass_and_no_random_number_is_drawn():
    made, before = module(Net(rows=4), num_classes=3), torch.get_rng_state()
    assert made.training
    assert check_contracts(made, Walk(num_steps=2), SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
    assert made.training and made.network.scale.grad is None


@pytest.mark.parametrize("uses", [True, False])
def test_a_network_that_ignores_its_labels_is_told(uses, caplog):
    network = Net(rows=4)
    nn.init.zeros_(network.label.weight)  # as many networks begin
    if not uses:
        network.label = None
    with caplog.at_level(logging.WARNING):
        check_contracts(module(network, num_classes=3), Walk(num_steps=2), SHAPE)
    assert ("Net.forward gives the same images for every label" in caplog.text) != uses


def test_parts_of_the_package_are_not_tried():
    class Counting(dl.networks.BasicUNet):
        calls = 0

        def forward(self, *inputs):
            Counting.calls += 1
            return super().forward(*inputs)

    Counting.__module__ = "diffusion_lab.networks.basic_unet"
    made = dl.DiffusionModule(Counting(), LinearSchedule(), Flow())
    assert not check_contracts(made, BlendSampler(num_steps=2), (1, 28, 28))
    assert Counting.calls == 0


def change(base, **methods):
    return type(base.__name__, (base,), methods | {"__module__": __name__})


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (
            {"network": change(Net, forward=lambda self, x, time, labels=None: x[..., :4])()},
            r"Net: forward gives the shape \(3, 1, 8, 4\), expected \(3, 1, 8, 8\)",
        ),
        ({"network": change(Net, forward=lambda self, x: x)()}, "Net.forward failed: TypeError"),
        (
            {"network": change(Net, forward=lambda self, x, t, labels: x / 0)()},
            "forward gives nan or inf",
        ),
        ({"network": Net(rows=3), "num_classes": 3}, "3 is the null class"),
        (
            {
                "network": change(
                    Net, forward=lambda self, x, t, labels: (self.scale * x).detach()
                )()
            },
            "Net: forward gives a tensor without gradient, expected one that depends on the",
        ),
        (
            {"network": change(Net, forward=lambda self, x, t, labels: (self.scale * x).long())()},
            "forward gives torch.int64, expected floating-point numbers",
        ),
        (
            {
                "network": change(
                    Net, forward=lambda self, x, t, labels: (self.scale * x).double()
                )()
            },
            r"forward gives torch.float64, expected torch.float32 \(end with .float",
        ),
        (
            {"network": change(Net, forward=lambda self, x, t, labels: UNet2DOutput(x))()},
            r"forward returns UNet2DOutput, expected a tensor \(for a model of diffusers",
        ),
        ({"network": change(Net, forward=lambda self, x, t, labels: None)()}, "returns None"),
        (
            {"network": change(Net, forward=lambda self, x, t, labels: {}["nothing"])()},
            rf"Net.forward failed at {FILE}:\d+: KeyError: 'nothing'",
        ),
        ({"network": Identity()}, "Identity: no parameter can be trained, expected at least one"),
        (
            {"schedule": change(Schedule, sigma=lambda self, t: t.double())()},
            "sigma gives torch.float64, expected torch.float32",
        ),
        (
            {"weighting": change(Even, weight=lambda self, a, s, p: s - 0.9)()},
            "weight ranges from -0.89 to 0.09, expected no negative weight",
        ),
        (
            {"weighting": change(Even, weight=lambda self, a, s, p: 0 * s)()},
            "weight ranges from 0 to 0",
        ),
        (
            {"schedule": change(Schedule, alpha=lambda self, t: t.mean())()},
            r"Schedule: alpha gives the shape \(\)",
        ),
        (
            {"schedule": change(Schedule, sigma=lambda self, t: t * math.nan)()},
            "sigma gives nan or inf",
        ),
        ({"schedule": change(Schedule, sigma=lambda self, t: 1 - t)()}, "ratio that grows with t"),
        (
            {"schedule": change(Schedule, network_time=lambda self, t: 2000 * t)()},
            "expected numbers from 0 to 1000",
        ),
        (
            {"prediction": change(Velocity, to_clean=lambda self, o, x, a, s: x)()},
            "expected x0 itself",
        ),
        ({"prediction": change(Velocity, name=None)()}, "its name is no string"),
        (
            {"weighting": change(Even, weight=lambda self, a, s, p: a[:, None] * s)()},
            r"weight gives the shape \(3, 3\)",
        ),
    ],
)
def test_a_broken_contract_names_the_part(parts, told):
    with pytest.raises(UserError, match=told) as error:
        check_contracts(module(**parts), BlendSampler(num_steps=2), SHAPE)
    assert "tests.modules.test_contracts." in str(error.value) and "\n" not in str(error.value)


class Nothing(Sampler):
    def steps(self, denoise, noise_schedule, noise, generators):
        yield from ()


class Shrinks(Sampler):
    def steps(self, denoise, noise_schedule, noise, generators):
        yield Step(torch.tensor(1.0), noise, noise, noise[:1])


class YieldsNone(Sampler):
    def steps(self, denoise, noise_schedule, noise, generators):
        yield None


class Returns(Sampler):
    def steps(self, denoise, noise_schedule, noise, generators):
        return None


def too_few(denoise, x, sigmas):
    return denoise(x, sigmas[0])[:1]


def never_asks(denoise, x, sigmas):
    return x


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        (Nothing(2), "steps yields nothing"),
        (YieldsNone(2), "the method steps yields None, expected a Step"),
        (Returns(2), r"steps returns None, expected yield Step\("),
        (FunctionSampler(too_few, 2), r"too_few returned a tensor of shape \[1, 1, 8, 8\]"),
        (FunctionSampler(partial(never_asks), 2), "test_contracts.never_asks.steps failed"),
        (Shrinks(2), r"x_next of a step gives the shape \(1, 1, 8, 8\), expected \(2, 1, 8, 8\)"),
    ],
)
def test_a_sampler_is_tried(sampler, told):
    with pytest.raises(UserError, match=told):
        check_sampler(sampler, LinearSchedule(), SHAPE)

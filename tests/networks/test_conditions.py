"""Time, classes, initial values and derivatives of the networks with adaLN or FiLM."""

import pytest
import torch
from torch import nn
from torch.func import jvp

from diffusion_lab.diffusion import Flow, StraightPath
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks import MLP, DiT, FastUNet
from diffusion_lab.networks.layers import ConditionEmbedding, rms_norm

SHAPE = (3, 8, 4)
SETTINGS = {
    "rotary": (DiT, {"patch_size": 2, "width": 16, "depth": 2, "heads": 2}),
    "learned": (DiT, {"patch_size": 2, "width": 16, "depth": 2, "heads": 2}),
    "mlp": (MLP, {"width": 16, "depth": 2}),
    "fast": (FastUNet, {"width": 4, "depth": 1}),
}
X, TIME = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 7])


def make(name, **more):
    network, settings = SETTINGS[name]
    if network is DiT:
        more["positions"] = name
    torch.manual_seed(0)
    return network(in_channels=3, image_size=list(SHAPE[1:]), **settings, **more)


def randomised(name, **more):
    """A network of which no layer is zero, as after some training."""
    network = make(name, **more)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


every = pytest.mark.parametrize("name", SETTINGS)


@every
def test_the_first_output_is_zero_and_all_parameters_learn(name):
    network = make(name, num_classes=3)
    labels = torch.tensor([0, 3])
    assert not network(X, TIME, labels).any()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    before = {key: p.detach().clone() for key, p in network.named_parameters()}
    for _ in range(4):  # layer by layer, as many are zero
        optimizer.zero_grad()
        (network(X, TIME, labels) - X).square().mean().backward()
        optimizer.step()
    same = [key for key, p in network.named_parameters() if torch.equal(p, before[key])]
    assert not same


@every
def test_time_and_label_change_the_output(name):
    network = randomised(name, num_classes=3)
    out = network(X, TIME, torch.tensor([0, 1]))
    assert not torch.allclose(out, network(X, TIME + 200, torch.tensor([0, 1])))
    other = network(X, TIME, torch.tensor([0, 2]))
    torch.testing.assert_close(other[0], out[0])  # an image depends on its own label only
    assert not torch.allclose(other[1], out[1])


@every
def test_use_time_false_is_time_zero(name):
    blind = randomised(name, use_time=False)
    seeing = make(name)
    seeing.load_state_dict(blind.state_dict())
    assert torch.equal(blind(X, TIME), seeing(X, 0 * TIME))
    assert not torch.allclose(seeing(X, TIME), seeing(X, 0 * TIME))


@every
def test_no_label_is_the_last_embedding(name):
    """A module without labels asks for the null class."""
    network = randomised(name, num_classes=3)
    module = DiffusionModule(network, StraightPath(), Flow(), num_classes=3)
    t = torch.tensor([0.2, 0.9])
    null = module(X, t)
    assert torch.equal(null, module(X, t, torch.tensor([3, 3])))
    assert not torch.allclose(null, module(X, t, torch.tensor([2, 2])))


@every
def test_jvp_equals_finite_differences(name):
    network = randomised(name, num_classes=3).double()
    labels, x = torch.tensor([1, 3]), X.double()
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    out, slope = jvp(lambda x: network(x, TIME, labels), (x,), (direction,))
    torch.testing.assert_close(out, network(x, TIME, labels))
    step = 1e-5 * direction
    difference = (network(x + step, TIME, labels) - network(x - step, TIME, labels)) / 2e-5
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-7)
    assert slope.abs().max() > 0.1


@every
def test_jvp_by_the_time_equals_finite_differences(name):
    """The sinusoids are float32, so that the step is large and the formula of fourth order."""
    network, x = randomised(name).double(), X.double()
    times = torch.tensor([100.0, 700])

    def at(shift):
        return network(x, times + shift)

    _, slope = jvp(at, (torch.zeros(2),), (torch.ones(2),))
    h = 0.0625 if name == "fast" else 0.25  # faster sinusoids
    difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    torch.testing.assert_close(slope, difference, rtol=1e-3, atol=1e-4)
    assert slope.abs().max() > 0.01


@pytest.mark.parametrize("name", ["rotary", "learned", "mlp"])  # torch's convolutions fail
def test_jvp_in_bfloat16_autocast_is_near_float32(name):
    network = randomised(name)
    direction = torch.ones_like(X)
    _, exact = jvp(lambda x: network(x, TIME), (X,), (direction,))
    with torch.autocast("cpu", torch.bfloat16):
        out, slope = jvp(lambda x: network(x, TIME), (X,), (direction,))
    assert (slope - exact).norm() < 0.1 * exact.norm()
    assert out.isfinite().all()


def test_rms_norm_matches_torch():
    x = 5 * torch.randn(3, 4, 7)
    torch.testing.assert_close(rms_norm(x), torch.rms_norm(x, (7,), eps=1e-6))
    assert rms_norm(x.bfloat16()).dtype == torch.bfloat16


def test_the_embedding_tells_neighbouring_times_apart_and_is_smooth():
    torch.manual_seed(0)
    embed = ConditionEmbedding(8, None)
    sinusoids = []
    embed.of_time = nn.Sequential(nn.Linear(64, 64))
    embed.of_time[0].register_forward_hook(lambda _, inputs, __: sinusoids.append(inputs[0]))
    embed(torch.tensor([500.0, 501, 500 + 1000 / 16, 0]), None)
    [waves] = sinusoids
    assert (waves[1] - waves[0]).abs().max() > 0.05
    assert (waves[1] - waves[0]).norm() < 0.25  # the usual ones turn by 1 in this time
    embed.to(torch.bfloat16)(torch.tensor([500.0, 501]), None)
    assert not torch.equal(*sinusoids[1])  # the times are no bfloat16

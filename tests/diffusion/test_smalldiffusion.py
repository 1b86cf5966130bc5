"""Another project's schedules, targets and steps, where they overlap."""

import pytest
import torch

from diffusion_lab.diffusion import BlendSampler, Flow, VPrediction, VPSchedule
from tests.diffusion.test_objectives import batch

smalldiffusion = pytest.importorskip("smalldiffusion")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("ScheduleDDPM", VPSchedule("linear")),
        ("ScheduleLDM", VPSchedule("scaled_linear", beta_start=0.00085, beta_end=0.012)),
        ("ScheduleSigmoid", VPSchedule("sigmoid")),
        ("ScheduleCosine", VPSchedule("squaredcos_cap_v2")),
    ],
)
def test_schedules(theirs, ours):
    sigmas = getattr(smalldiffusion, theirs)(1000).sigmas
    t = torch.arange(1000)
    torch.testing.assert_close(ours.sigma(t) / ours.alpha(t), sigmas, rtol=2e-3, atol=1e-4)


def test_targets():
    sigma, (x0, noise) = torch.tensor([0.1, 1.0, 5.0]), batch(3)
    alpha = (1 + sigma**2) ** -0.5
    captured = {}

    def loss_of(predicting):
        class Net(torch.nn.Module, smalldiffusion.ModelMixin):
            def forward(self, x, sigma, cond=None):
                return torch.zeros_like(x)

        Net = predicting(Net)

        def capture():
            def loss(target, output):
                captured["target"] = target

            return loss

        Net().get_loss(x0, sigma.view(-1, 1, 1, 1), noise, loss=capture)
        return captured["target"]

    v = loss_of(smalldiffusion.PredV)
    torch.testing.assert_close(VPrediction().target(x0, noise, alpha, alpha * sigma), v)
    flow = loss_of(smalldiffusion.PredFlow)
    torch.testing.assert_close(Flow().target(x0, noise, 1 - sigma, sigma), flow)


def test_ddim_steps():
    vp, x0 = VPSchedule(), batch(2)[0]
    ours = list(BlendSampler(10).steps(lambda x, t: 0.9 * x0, vp, batch(2)[1], generators=[]))
    t = vp.timesteps(10)
    sigmas = vp.sigma(t) / vp.alpha(t)

    class Net(torch.nn.Module, smalldiffusion.ModelMixin):
        input_dims = (1, 8, 8)

        def forward(self, x, sigma, cond=None):
            return (x - 0.9 * x0) / sigma

    begin = ours[0].x_t / vp.alpha(t[0])
    theirs = list(
        smalldiffusion.samples(
            Net(), sigmas, batchsize=2, xt=begin, accelerator=_Cpu(), gam=1, mu=0
        )
    )
    for i, x in enumerate(theirs[: len(t) - 1]):
        torch.testing.assert_close(ours[i].x_next / vp.alpha(t[i + 1]), x, rtol=1e-3, atol=1e-3)


class _Cpu:
    device = torch.device("cpu")

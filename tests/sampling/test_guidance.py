"""Labels in networks and modules, and the branches of guidance."""

import pytest
import torch

from diffusion_lab import compose_config, train
from diffusion_lab.diffusion import Flow, GuidedDenoiser, StraightPath, VPSchedule
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks.fast_unet import FastUNet
from diffusion_lab.networks.unet2d import UNet2D
from tests.cli.test_bad_input import assert_refused
from tests.conftest import RUN


def random_module(network=FastUNet, schedule=None, **settings):
    """Return a module with ten classes and random weights, so that every input has an effect."""
    torch.manual_seed(0)
    small = (
        {"width": 8}
        if network is FastUNet
        else {
            "block_out_channels": (8, 8),
            "down_block_types": ("DownBlock2D",) * 2,
            "up_block_types": ("UpBlock2D",) * 2,
            "norm_num_groups": 4,
        }
    )
    net = network(num_classes=10, **small)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return DiffusionModule(
        net, schedule or StraightPath(), Flow(), num_classes=10, **settings
    ).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 1, 28, 28, generator=generator), torch.tensor([0, 1, 2, 3, 9, 9])


@pytest.mark.parametrize("network", [FastUNet, UNet2D])
def test_labels_change_the_output_and_none_is_the_null_class(network, batch):
    x, labels = batch
    module, t = random_module(network), torch.full((6,), 0.5)
    with torch.no_grad():
        outputs = module(x, t, labels)
        assert not torch.allclose(outputs, module(x, t, (labels + 1) % 10), atol=1e-3)
        null = torch.full_like(labels, 10)
        assert torch.equal(module(x, t), module(x, t, null))
        assert not torch.allclose(module(x, t), outputs, atol=1e-3)


@pytest.mark.parametrize("schedule", [StraightPath(), VPSchedule()])
def test_one_guided_batch_equals_two_evaluations(schedule, batch):
    x, labels = batch
    module = random_module(schedule=schedule)
    t = schedule.span(5)[3].expand(6)
    calls = []
    module.network.register_forward_hook(lambda net, args, out: calls.append(len(args[0])))

    def guided(scale, **more):
        return GuidedDenoiser(
            module.denoise, schedule, labels, null_label=10, guidance_scale=scale, **more
        )(x, t)

    with torch.no_grad():
        strong, weak = module.denoise(x, t, labels), module.denoise(x, t)
        calls.clear()
        three = guided(3.0)
        assert calls == [12]  # both branches in one batch
        torch.testing.assert_close(three, weak + 3 * (strong - weak), rtol=1e-4, atol=1e-4)
        assert torch.equal(guided(1.0), strong)
        assert torch.equal(guided(0.0), weak)
        ratio = (schedule.sigma(t[:1]) / schedule.alpha(t[:1])).item()
        assert torch.equal(guided(3.0, interval=(ratio * 1.1, 99.0)), strong)
        assert torch.equal(guided(3.0, interval=(ratio * 0.9, ratio * 1.1)), three)


def test_autoguidance_extrapolates_away_from_the_weaker_model(batch):
    x, labels = batch
    module, t = random_module(), torch.full((6,), 0.3)
    torch.manual_seed(7)
    weaker = DiffusionModule(FastUNet(width=4, num_classes=10), StraightPath(), Flow())
    weaker.num_classes = 10
    guided = GuidedDenoiser(
        module.denoise,
        module.noise_schedule,
        labels,
        guidance_scale=2.0,
        weak=weaker.denoise,
    )
    with torch.no_grad():
        strong, weak = module.denoise(x, t, labels), weaker.denoise(x, t, labels)
        torch.testing.assert_close(guided(x, t), 2 * strong - weak)


def test_each_class_gets_gradients_from_its_images_only(batch):
    x, _ = batch
    module = random_module(label_dropout=0.5).train()
    module.log = lambda *args, **kwargs: None
    torch.manual_seed(2)
    module.training_step((x, torch.full((6,), 4)), 0)["loss"].backward()
    touched = module.network.classes.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == [4, 10]


def test_the_fraction_of_dropped_labels_is_label_dropout():
    module = random_module(label_dropout=0.2)
    torch.manual_seed(0)
    labels = torch.zeros(20_000, dtype=torch.long)
    fraction = (module.network_labels(labels, 0.2) == 10).float().mean().item()
    assert fraction == pytest.approx(0.2, abs=0.01)
    state = torch.get_rng_state()
    assert torch.equal(module.network_labels(labels), labels)
    assert torch.equal(torch.get_rng_state(), state)  # validation uses no random numbers


@pytest.mark.slow
def test_autoguidance_with_other_clusters_is_rejected(typed, tmp_path):
    """Cluster k of other images is another group."""
    words = [*RUN, "trainer.max_epochs=1", "data.clusters=4", "model.num_classes=4"]
    for name, size in (("one", 4), ("again", 4), ("other", 6)):
        train(compose_config([*words, f"data.val_size={size}"], tmp_path / name))
    ask = ["run=one", "guidance_scale=2", "num_samples=2", "sampler.num_steps=2"]
    result = typed("sample", *ask, "autoguidance=other")
    assert_refused(result, "autoguidance=other has another set of clusters")
    code, _, err = typed("sample", *ask, "autoguidance=again")
    assert code == 0, err

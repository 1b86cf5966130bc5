"""Which noise an image gets: best of all orders, and no class a noise of its own."""

from itertools import permutations

import pytest
import torch

from diffusion_lab.diffusion import Flow, StraightPath, optimal_transport
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks.fast_unet import FastUNet


def test_optimal_transport_is_the_best_permutation():
    x0, noise = torch.randn(2, 5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    paired = optimal_transport(x0, noise)
    cost = (x0 - paired).square().sum()
    best = min((x0 - noise[list(p)]).square().sum() for p in permutations(range(5)))
    assert cost == pytest.approx(best.item(), rel=1e-5)
    assert {tuple(n.flatten().tolist()) for n in paired} == {
        tuple(n.flatten().tolist()) for n in noise
    }


def test_optimal_transport_gives_no_class_a_noise_of_its_own():
    """Black and white images: across classes the brighter noise would go to the white ones."""
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    x0 = labels.float().reshape(-1, 1, 1, 1).expand(64, 1, 4, 4) + 0.1 * torch.randn(64, 1, 4, 4)
    noise = torch.randn(64, 1, 4, 4)
    within, across = optimal_transport(x0, noise, labels), optimal_transport(x0, noise)
    for label in (0, 1):
        mine = labels == label
        assert {tuple(n.flatten().tolist()) for n in within[mine]} == {
            tuple(n.flatten().tolist()) for n in noise[mine]
        }
        plan = optimal_transport(x0[mine], noise[mine])
        assert torch.equal(within[mine], plan)  # the best of each class by itself
    means = [across[labels == label].mean() for label in (0, 1)]
    assert means[1] - means[0] > 0.3


def test_a_module_tells_the_pairing_its_classes_where_it_has_some():
    told = []

    def pairing(x0, noise, classes):
        told.append(classes)
        return noise

    labels = torch.arange(4)
    for num_classes in (10, None):
        net = FastUNet(width=4, depth=1, image_size=8, num_classes=num_classes)
        module = DiffusionModule(
            net, StraightPath(), Flow(), pairing=pairing, num_classes=num_classes
        )
        module.draw(torch.rand(4, 1, 8, 8), labels)
    assert torch.equal(told[0], labels) and told[1] is None

"""augment=edm: the condition of the networks, and training, resuming, sampling, export with it."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from diffusion_lab import compose_config, train
from diffusion_lab.data.augmentation import EDMAugmentation
from diffusion_lab.diffusion import Flow, StraightPath
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks import MLP, DiT, FastUNet, UNet2D
from diffusion_lab.runs.load import load_run
from diffusion_lab.training.replay import replay
from diffusion_lab.training.rerun import compare_runs
from tests.conftest import RUN, TINY_UNET

NETWORKS = {
    "unet_fast": partial(FastUNet, width=4, depth=1),
    "unet2d": partial(UNet2D, **TINY_UNET),
    "dit": partial(DiT, width=16, depth=1),
    "mlp": partial(MLP, width=16, depth=1),
}
POINTS = ("data=npz", "data.path=points.npz", "data.image_size=1", "network=mlp")
X, T = torch.rand(4, 1, 8, 8), torch.tensor([0.1, 0.4, 0.6, 0.9])
VALUES = torch.rand(4, 9)


def module_of(network, augment=None, num_classes=None):
    torch.manual_seed(0)
    made = NETWORKS[network](in_channels=1, image_size=8, num_classes=num_classes)
    return DiffusionModule(made, StraightPath(), Flow(), num_classes=num_classes, augment=augment)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("num_classes", [None, 10])
def test_the_description_is_a_condition_that_starts_at_zero(network, num_classes):
    plain = module_of(network, num_classes=num_classes)
    module = module_of(network, EDMAugmentation(), num_classes)
    weights, more = plain.state_dict(), module.state_dict()
    assert more.keys() - weights.keys() == {"augment_embedding.weight"}
    assert all(torch.equal(more[name], value) for name, value in weights.items())
    for parameter in module.network.parameters():  # as after some training
        nn.init.normal_(parameter, std=0.3)
    without = module(X, T)
    assert torch.equal(module(X, T, augmentation=VALUES), without)
    nn.init.normal_(module.augment_embedding.weight)
    assert torch.equal(module(X, T, augmentation=0 * VALUES), without)
    described = module(X, T, augmentation=VALUES)
    assert not torch.isclose(described, without).flatten(1).all(1).any()
    one = torch.cat([VALUES[:1], 0 * VALUES[1:]])
    torch.testing.assert_close(module(X, T, augmentation=one)[1:], without[1:])
    described.square().mean().backward()
    assert module.augment_embedding.weight.grad.abs().sum() > 0


def test_the_loss_is_that_of_transformed_images():
    module = module_of("unet_fast", EDMAugmentation())
    torch.manual_seed(3)
    x0, noise, t, _, values = module.draw(X, torch.zeros(4, dtype=torch.int64))
    torch.manual_seed(3)
    images, expected = module.augment(X)
    assert torch.equal(x0, images) and torch.equal(values, expected) and not torch.equal(x0, X)
    error, _ = module.losses(x0, noise, t, None, values)
    target = (noise - images).square().flatten(1).mean(1)  # the network's output is zero
    torch.testing.assert_close(error, target)


def test_a_network_without_the_condition_is_rejected_in_one_line(typed):
    code, _, err = typed("train", "data=fake", "model=basic_unet", "augment=edm")
    assert code == 2 and len(err.strip().splitlines()) == 1
    assert (
        "augment= needs a network" in err
        and "BasicUNet" in err
        and "unet_fast, unet2d, unet_cifar, dit or mlp" in err
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["augment=edn"], "edm"),
        (["augment=edm", "augment.probability=2"], "augment.probability=2"),
        (["augment=edm", "augment.chance=0.1"], "augment.chance"),
        (["augment=edm", *POINTS], "needs pictures"),
    ],
)
def test_bad_settings_are_rejected_in_one_line(words, told, typed, tmp_path):
    np.savez(tmp_path / "points.npz", images=np.zeros((8, 3, 1, 1), np.uint8))
    code, _, err = typed("train", "data=fake", "model=flow", *words)
    assert code == 2 and told in err
    assert len(err.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def augmented(tmp_path_factory):
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("augmented") / "run"
    train(compose_config([*RUN, "augment=edm", "augment.probability=0.5"], folder))
    return folder


@pytest.mark.slow
def test_a_run_is_resumed_exactly(augmented, tmp_path):
    folder = tmp_path / "half"
    words = [*RUN, "augment=edm", "augment.probability=0.5"]
    train(compose_config([*words, "trainer.max_epochs=1"], folder))
    train(compose_config(words, folder), resume=True)
    assert compare_runs(folder, augmented) == []


@pytest.mark.slow
def test_samples_and_exports_are_free_of_it(augmented, tmp_path, typed):
    """They are those of the same network in a module without augmentation."""
    run = load_run(augmented)
    assert run.module.augment_embedding.weight.abs().sum() > 0
    images = run.sample(3, num_steps=2)
    nn.init.normal_(run.module.augment_embedding.weight)
    assert torch.equal(run.sample(3, num_steps=2), images)
    out = tmp_path / "exported"
    code, _, err = typed("export", f"run={augmented}", f"out={out}", "sampler.num_steps=2")
    assert code == 0, err
    pipe = DiffusionPipeline.from_pretrained(out, trust_remote_code=True)
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    exported = pipe(batch_size=2, generator=generators, output_type="np").images
    x = torch.stack(
        [torch.randn(1, 28, 28, generator=g.manual_seed(g.initial_seed())) for g in generators]
    )
    for t, to in ((1.0, 0.5), (0.5, 0.0)):
        x = x + (to - t) * run.module(x, torch.full((2,), t))
    expected = ((x + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(exported, expected, atol=1e-5)


@pytest.mark.slow
def test_a_diverged_step_is_replayed_with_its_description(augmented, tmp_path, typed):
    run = tmp_path / "run"
    words = [*RUN, "augment=edm", "optimizer.lr=1e30", f"hydra.run.dir={run}"]
    code, _, err = typed("train", *words)
    assert code != 0 and "anomaly.pt" in err
    assert torch.load(run / "anomaly.pt", weights_only=True)["augmentation"].shape == (4, 9)
    assert replay(run / "anomaly.pt").same


@pytest.mark.slow
def test_an_augmented_run_is_a_teacher_of_runs_that_are_not(augmented, tmp_path, typed):
    words = [*RUN, f"teacher.run={augmented}", "teacher.num_pairs=24", "trainer.max_epochs=1"]
    for more in ("augment=edm", "data.flip=true"):
        code, _, err = typed("train", *words, more)
        assert code == 2 and "would change only the images" in err
        assert len(err.strip().splitlines()) == 1
    folder = tmp_path / "student"
    code, _, err = typed("train", *words, f"hydra.run.dir={folder}")
    assert code == 0, err
    assert not any("augment" in name for name in load_run(folder).module.state_dict())

"""The network for colour images: its stem, its stored weights, augmentation and training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save

from diffusion_lab.commands import train_extractor as command
from diffusion_lab.data.loader import InMemoryLoader
from diffusion_lab.data.sources.fake import draw_bars
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.augmentation import CropAndFlip
from diffusion_lab.evaluation.features.load import load_extractor
from diffusion_lab.evaluation.features.networks import (
    build_network,
    network_for,
    packed,
    unpacked,
)
from diffusion_lab.evaluation.features.resnet import ResNet, stride_for
from diffusion_lab.evaluation.features.train_classifier import count_errors
from diffusion_lab.evaluation.features.train_resnet import ResNetTraining
from tests.cli.test_bad_input import assert_refused


def colours(n, seed=0, size=32):
    return draw_bars(n, size, 3, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 32, 32), (4, 20, 33), (1, 64, 48), (3, 128, 128)])
def test_the_stem_whitens_patches(shape):
    network = ResNet(shape[0], 10, 24, stride_for(*shape[1:])).eval()
    images = torch.rand(60, *shape, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.avg_pool2d(images, 3, 1, 1)  # neighbours are alike
    network.whiten(images)
    maps = network.body[0](images * 2 - 1)
    assert 16 <= min(maps.shape[2:]) <= 48
    half = maps.shape[1] // 2
    values = maps[:, :half].movedim(1, 0).flatten(1).double().numpy()
    covariance = np.cov(values)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.01
    assert np.diag(covariance).min() > 0.5 and np.diag(covariance).max() < 1.01
    torch.testing.assert_close(maps[:, half:], -maps[:, :half])
    features = network.features(images)
    assert features.shape == (60, 24) and bool((features >= 0).all())


def test_the_stored_weights_are_small_and_close():
    torch.manual_seed(0)
    network = ResNet()
    stored = packed(network)
    assert len(save(stored)) < 2**20
    found, weights = unpacked(stored), network.state_dict()
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        largest = tensor.flatten(1).abs().amax(1) if tensor.ndim > 1 else tensor.new_zeros(())
        error = (found[name] - tensor).abs().flatten(1) if tensor.ndim > 1 else found[name] - tensor
        assert bool((error <= largest[..., None] * (0.501 / 127)).all()), name
    network.load_state_dict(found)
    again = packed(network)
    assert all(torch.equal(again[name], tensor) for name, tensor in stored.items())


def test_the_architecture_is_chosen_by_the_images():
    small_gray, colour = [(1, 28, 28), (1, 32, 20)], [(3, 28, 28), (1, 64, 64)]
    assert {network_for(shape) for shape in small_gray} == {"cnn"}
    assert {network_for(shape) for shape in colour} == {"resnet"}
    with pytest.raises(ValueError, match="architecture=vgg"):
        build_network("vgg", (3, 32, 32), 10, 64)


@pytest.mark.parametrize("flip", [True, False])
def test_each_image_is_cropped_and_mirrored_on_its_own(flip):
    """A crop of the reflected image is found by trying all of them."""
    images = torch.rand(40, 2, 9, 7, generator=torch.Generator().manual_seed(0))
    moved = CropAndFlip(2, flip)(images, torch.Generator().manual_seed(1))
    seen = set()
    for image, found in zip(images.numpy(), moved.numpy(), strict=True):
        wide = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="reflect")
        crops = {
            (y, x, mirrored): wide[:, y : y + 9, x : x + 7][:, :, :: -1 if mirrored else 1]
            for y in range(5)
            for x in range(5)
            for mirrored in (False, True)
        }
        mirrors = {key for key, crop in crops.items() if np.array_equal(crop, found)}
        assert mirrors
        seen |= mirrors
    assert {mirrored for _, _, mirrored in seen} == ({False, True} if flip else {False})
    assert len({y for y, _, _ in seen}) == len({x for _, x, _ in seen}) == 5


@pytest.mark.parametrize("shift", [-1, 1.5, float("inf"), float("nan")])
def test_shifts_that_are_no_whole_pixels_are_rejected(shift):
    with pytest.raises(UserError, match="expected a whole number of pixels"):
        CropAndFlip(shift)


def test_a_shift_beyond_the_image_is_rejected():
    with pytest.raises(UserError, match="less than the images' 4x9"):
        CropAndFlip(4)(torch.zeros(1, 1, 4, 9), torch.Generator())


@pytest.mark.slow
def test_training_learns_colours_and_depends_on_the_seed_alone():
    """The bars' angle is the class: a mirror would turn one into another."""

    def train(seed, max_epochs):
        training = ResNetTraining(max_epochs, seed=seed, augmentation=CropAndFlip(1, flip=False))
        return training(InMemoryLoader(*colours(400, size=16), 40, shuffle=True), held_out, 10)

    held_out = InMemoryLoader(*colours(200, seed=1, size=16), 100)
    network = train(0, 4)
    assert count_errors(network, held_out) < 80  # of 180 by chance
    torch.rand(7)
    again, other = train(0, 4), train(1, 1)
    assert all(map(torch.equal, network.state_dict().values(), again.state_dict().values()))
    assert not torch.equal(network.head.weight, other.head.weight)


@pytest.mark.slow
def test_the_command_trains_an_extractor_of_colour_images(typed, tmp_path):
    out = tmp_path / "colour_v1"
    words = ["data=fake", "data.channels=3", "data.image_size=20", "data.num_images=500"]
    words += ["data.val_size=100", "data.batch_size=50", "max_epochs=1", "flip=false", "shift=1"]
    code, printed, err = typed("train_extractor", *words, "version=colour_v1", f"out={out}")
    assert code == 0, err
    assert "of 100 misclassified" in printed
    extractor = load_extractor(str(out))
    assert extractor.record["architecture"] == "resnet" and extractor.image_shape == (3, 20, 20)
    assert extractor.record["training"]["flip"] is False
    generator = torch.Generator().manual_seed(0)
    draw_bars(500, 20, 3, generator)  # the training images come first
    images, labels = draw_bars(1000, 20, 3, generator)
    wrong = int((extractor(images).probabilities.argmax(1) != labels.numpy()).sum())
    assert extractor.record["accuracy"]["test"]["errors"] == wrong  # of the rounded weights


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["architecture=vgg"], "architecture=vgg is unknown: choose from cnn, resnet"),
        (["rotation=5"], "rotation= has no effect on architecture=resnet"),
        (["architecture=cnn", "flip=true"], "flip= has no effect on architecture=cnn"),
        (["shift=1.5"], "shift=1.5: expected a whole number"),
        (["data.image_size=8"], "the images are 8x8: expected at least 16 pixels"),
        (["lr=0"], "lr=0.0: expected a number above 0"),
    ],
)
def test_settings_of_the_other_architecture_are_rejected(typed, tmp_path, overrides, words):
    given = ("data=fake", "data.channels=3", "version=new", f"out={tmp_path}/new", *overrides)
    assert_refused(typed("train_extractor", *given), words)
    assert not (tmp_path / "new").exists()


def test_images_without_labels_are_rejected(typed, tmp_path, monkeypatch):
    unlabelled = SimpleNamespace(
        num_classes=None, dataset="images", value_range=ValueRange("zero_one")
    )
    monkeypatch.setattr(command, "named_data", lambda *arguments: unlabelled)
    result = typed("train_extractor", "data=fake", "version=new", f"out={tmp_path}/new")
    assert_refused(result, "data=images has no labels", "extractor=inception")

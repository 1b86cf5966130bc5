"""The classifier for scoring: architecture, training, and rejected settings."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.ndimage import map_coordinates

from diffusion_lab.data.loader import InMemoryLoader
from diffusion_lab.data.sources.fake import draw_bars
from diffusion_lab.errors import Diverged, UserError
from diffusion_lab.evaluation.features.augmentation import Affine
from diffusion_lab.evaluation.features.classifier import Classifier
from diffusion_lab.evaluation.features.train_classifier import Training, count_errors
from diffusion_lab.evaluation.features.train_resnet import ResNetTraining
from tests.evaluation.conftest import TINY_EXTRACTOR
from tests.support.forked import ROOT


def bars(n, seed, batch_size=32, shuffle=False):
    images, labels = draw_bars(n, 28, 1, torch.Generator().manual_seed(seed))
    return InMemoryLoader(images, labels, batch_size, shuffle=shuffle)


def test_each_image_has_its_own_transformation_and_matches_scipy():
    images = torch.rand(3, 1, 20, 12)
    shift, rotation, scale = 2.0, 30.0, 0.25
    moved = Affine(shift, rotation, scale)(images, torch.Generator().manual_seed(4))
    draws = torch.rand(4, 3, generator=torch.Generator().manual_seed(4)).double().numpy() * 2 - 1
    down, right = np.meshgrid(np.arange(20) - 9.5, np.arange(12) - 5.5, indexing="ij")
    for image, found, (x, y, turn, size) in zip(images, moved, draws.T, strict=True):
        angle, zoom = np.deg2rad(turn * rotation), 1 + size * scale
        source_right = (np.cos(angle) * right - np.sin(angle) * down) / zoom + x * shift
        source_down = (np.sin(angle) * right + np.cos(angle) * down) / zoom + y * shift
        where = [source_down + 9.5, source_right + 5.5]
        expected = map_coordinates(image[0].double().numpy(), where, order=1, mode="grid-constant")
        np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5)


def test_limits_of_0_leave_images_unchanged():
    images = torch.rand(2, 3, 9, 9)
    moved = Affine(0, 0, 0)(images, torch.Generator())
    torch.testing.assert_close(moved, images, atol=1e-6, rtol=0)


def test_the_classifier_has_its_documented_size():
    network = Classifier()
    size = sum(parameter.numel() for parameter in network.parameters())
    assert 115_000 < size < 125_000
    assert sum(t.numel() * t.element_size() for t in network.state_dict().values()) < 2**20
    x = torch.rand(2, 1, 28, 28)
    features = network.eval().features(x)
    assert features.shape == (2, 64) and bool((features >= 0).all())
    by_hand = features @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(x), by_hand)


@pytest.mark.slow
def test_training_keeps_its_best_epoch_and_depends_on_the_seed_alone():
    def train(seed):
        errors = []
        network = Training(max_epochs=4, lr=0.01, seed=seed)(
            bars(400, 0, shuffle=True), held_out, 10, progress=lambda e, loss, n: errors.append(n)
        )
        return network, errors

    held_out = bars(200, 1)
    network, errors = train(0)
    assert len(errors) == 4
    assert count_errors(network, held_out) == min(errors) < 100  # of 180 by chance
    torch.rand(7)  # the global random state has no effect
    again, _ = train(0)
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True)
    )
    other, _ = train(1)
    assert not torch.equal(network.head.weight, other.head.weight)


def test_errors_match_a_count_by_hand():
    held_out = bars(50, 2, batch_size=20)
    network = Classifier().eval()
    likeliest = network(held_out.images / 255).argmax(dim=1)
    assert count_errors(network, held_out) == int((likeliest != held_out.labels).sum())


def test_a_training_that_diverges_is_reported():
    with pytest.raises(Diverged, match="lower lr=, for example lr="):
        Training(max_epochs=1, lr=1e30)(bars(64, 0, shuffle=True), bars(20, 1), 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_epochs": 0}, "max_epochs=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
    ],
)
def test_settings_out_of_range_are_rejected(settings, message):
    with pytest.raises(UserError, match=message):
        Training(**settings)


def test_defaults_are_those_of_the_configuration_file():
    """configs/train_extractor.yaml names the numbers of both architectures in its comments."""
    text = (ROOT / "configs" / "train_extractor.yaml").read_text()
    for name in ("max_epochs", "lr", "weight_decay"):
        line = next(line for line in text.splitlines() if line.startswith(f"{name}: null"))
        numbers = [float(number) for number in re.findall(r"[\d.]+", line)]
        assert numbers == [getattr(kind(), name) for kind in (Training, ResNetTraining)]


@pytest.mark.parametrize(
    "settings", [{"shift": -1.0}, {"rotation": 181.0}, {"scale": 1.0}, {"scale": float("nan")}]
)
def test_augmentation_settings_out_of_range_are_rejected(settings):
    [name] = settings
    with pytest.raises(UserError, match=f"{name}="):
        Affine(**settings)


@pytest.mark.slow
def test_the_command_writes_weights_a_record_and_a_reference(fake_extractor):
    assert {file.name for file in fake_extractor.iterdir()} == {
        "fake_v1.safetensors",
        "fake_v1.json",
        "fake_v1.reference.safetensors",
    }
    record = json.loads((fake_extractor / "fake_v1.json").read_text())
    for key, file in (("sha256", "fake_v1"), ("reference_sha256", "fake_v1.reference")):
        content = (fake_extractor / f"{file}.safetensors").read_bytes()
        assert record[key] == hashlib.sha256(content).hexdigest()
    assert record["data"]["num_train"] == 240 and record["data"]["num_val"] == 60
    assert record["training"]["max_epochs"] == 3 and record["training"]["batch_size"] == 32
    assert record["image_shape"] == [1, 28, 28]

    # the accuracy of its record, recounted with the saved weights
    network = Classifier()
    network.load_state_dict(load_file(fake_extractor / "fake_v1.safetensors"))
    generator = torch.Generator().manual_seed(0)
    draw_bars(300, 28, 1, generator)  # the training images come first
    images, labels = draw_bars(1000, 28, 1, generator)
    wrong = network.eval()(images / 255).argmax(dim=1) != labels
    assert record["accuracy"]["test"] == {"images": 1000, "errors": int(wrong.sum())}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], ["version= is missing", "version=mnist_v2"]),
        (["version=inception"], ["version=inception exists", "version=inception2"]),
        (["version=../up"], ["version=../up", "mnist_v2"]),
        (["version=new", "max_epochs=0"], ["max_epochs=0"]),
        (["version=new", "lr=fast"], ["lr"]),
        (["version=new", "shift=-1"], ["shift=-1"]),
        (["version=new", "data.value_range=minus_one_one"], ["has no effect on an extractor"]),
        (["version=new", "data.val_size=1"], ["1 held-out", "data.val_size="]),
        (["version=new", "data.val_size=null", "data.num_images=9"], ["0 held-out", "1000 test"]),
        (["version=new", "data.image_size=8"], ["the images are 8x8: expected at least 9 pixels"]),
        (["version=new", "data.val_size=999"], ["data.val_size=999: expected less"]),
        (["version=new", "seed=-1"], ["seed=-1"]),
        (["version=new", "epochs=3"], ["epochs is unknown", "max_epochs"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_rejected_and_leaves_no_files(typed, tmp_path, overrides, message):
    code, out, err = typed("train_extractor", *TINY_EXTRACTOR, *overrides)
    assert code == 2, out + err
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    for word in message:
        assert word in lines[0]
    assert not list(tmp_path.rglob("*safetensors"))


@pytest.mark.slow
def test_an_existing_version_is_never_overwritten(typed, fake_extractor):
    before = {file: file.read_bytes() for file in fake_extractor.iterdir()}
    code, _, err = typed(
        "train_extractor", *TINY_EXTRACTOR, "version=fake_v1", f"out={fake_extractor}"
    )
    assert code == 2 and "is not empty" in err
    assert {file: file.read_bytes() for file in fake_extractor.iterdir()} == before
    code, _, err = typed("train_extractor", *TINY_EXTRACTOR, "version=mnist_v1")
    assert code == 2 and "version=mnist_v1 exists" in err and "mnist_v2" in err


@pytest.mark.parametrize(
    ("version", "free"), [("mnist_v1", "mnist_v3"), ("mnist_v2", "mnist_v3"), ("k9", "k10")]
)
def test_an_existing_version_suggests_the_next_free_number(typed, monkeypatch, version, free):
    shipped = ["k9", "mnist_v1", "mnist_v2"]
    monkeypatch.setattr("diffusion_lab.commands.train_extractor.shipped_versions", lambda: shipped)
    _, _, err = typed("train_extractor", *TINY_EXTRACTOR, f"version={version}")
    assert f"version={version} exists" in err and err.strip().endswith(f"version={free}")

import os
from pathlib import Path

import pytest
import torch
import torchvision.datasets
from torchvision.transforms import ToTensor

from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.sources.published import load_images
from diffusion_lab.errors import UserError

FULL = os.environ.get("DIFFUSION_LAB_DATA")
full_set = pytest.param(
    FULL,
    marks=pytest.mark.skipif(
        not FULL or not (Path(FULL) / "MNIST" / "raw" / "train-images-idx3-ubyte").exists(),
        reason="DIFFUSION_LAB_DATA names no folder with the full MNIST",
    ),
)


def fake(**settings) -> ImageDataModule:
    small = {"num_images": 200, "num_test_images": 40, "val_size": 50, "batch_size": 16}
    data = ImageDataModule("fake", **small | settings)
    data.setup()
    return data


def all_batches(data, batches) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the batches of one epoch as the module receives them."""
    received = [data.on_after_batch_transfer(batch, 0) for batch in batches]
    return torch.cat([images for images, _ in received]), torch.cat([y for _, y in received])


def identities(images) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def check_against_torchvision(data_dir, val_size):
    """Check that every image matches torchvision with ToTensor, bit for bit."""
    data = ImageDataModule("mnist", data_dir, val_size=val_size, batch_size=64)
    data.setup()
    train, val = (
        all_batches(data, batches) for batches in (data.train_dataloader(), data.val_dataloader())
    )
    reference = torchvision.datasets.MNIST(data_dir, train=True, transform=ToTensor())
    # position of image k of the file, identified by its content, which is unique
    place = {image.numpy().tobytes(): k for k, image in enumerate(torch.cat([train[0], val[0]]))}
    labels = torch.cat([train[1], val[1]])
    assert len(place) == len(reference) == len(labels)
    for k in range(len(reference)):
        image, label = reference[k]
        assert labels[place.pop(image.numpy().tobytes())] == label
    assert not place

    test_images, test_labels = all_batches(data, data.test_dataloader())
    reference = torchvision.datasets.MNIST(data_dir, train=False, transform=ToTensor())
    for k in range(len(reference)):
        image, label = reference[k]
        assert torch.equal(test_images[k], image), k
        assert test_labels[k] == label
    assert len(test_images) == len(reference)


def test_every_image_matches_torchvision(tiny, tmp_path):
    tiny.write(tmp_path)
    check_against_torchvision(tmp_path, val_size=10)


@pytest.mark.slow
@pytest.mark.parametrize("data_dir", [full_set])
def test_every_image_of_the_full_set_matches_torchvision(data_dir):
    check_against_torchvision(data_dir, val_size=5000)


def test_batches_of_the_module():
    data = fake(value_range="minus_one_one", image_size=12, channels=3)
    images, labels = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert images.shape == (16, 3, 12, 12)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.min() == -1
    assert images.max() > 0.5


def test_validation_is_disjoint_and_the_same_for_every_seed():
    first, second = fake(seed=0), fake(seed=1)
    images = {
        name: identities(all_batches(first, batches)[0])
        for name, batches in [
            ("train", first.train_dataloader()),
            ("val", first.val_dataloader()),
            ("test", first.test_dataloader()),
        ]
    }
    assert [len(images[name]) for name in ("train", "val", "test")] == [150, 50, 40]
    assert not images["train"] & images["val"]
    assert not images["train"] & images["test"]
    ours, theirs = (next(iter(d.val_dataloader()))[0] for d in (first, second))
    assert torch.equal(ours, theirs)
    assert identities(all_batches(second, second.train_dataloader())[0]) == images["train"]
    ours, theirs = (next(iter(d.train_dataloader()))[0] for d in (first, second))
    assert not torch.equal(ours, theirs), "the seed determines the order"
    ours, theirs = (next(iter(d.train_dataloader()))[0] for d in (first, fake(seed=0)))
    assert torch.equal(ours, theirs)


def test_a_smaller_train_size_is_a_subset():
    ten, twenty, whole = (
        identities(all_batches(d, d.train_dataloader())[0])
        for d in (fake(train_size=10), fake(train_size=20), fake())
    )
    assert (len(ten), len(twenty)) == (10, 20)
    assert ten < twenty < whole
    assert fake(train_size=10).provenance["num_train"] == 10


def test_setup_twice_loads_once():
    data = fake()
    images = next(iter(data.val_dataloader()))[0]
    data.image_set = lambda: pytest.fail("loaded again")
    data.setup("fit")
    data.setup("test")
    assert torch.equal(next(iter(data.val_dataloader()))[0], images)


def test_padding_is_even_and_black(tiny, tmp_path):
    tiny.write(tmp_path)
    settings = {"data_dir": tmp_path, "val_size": 10, "value_range": "minus_one_one"}
    data = ImageDataModule("mnist", image_size=32, **settings)
    assert (data.size, data.channels, data.num_classes) == ((32, 32), 1, 10)
    data.setup()
    images, _ = all_batches(data, data.test_dataloader())
    original = load_images("mnist", tmp_path).test_images
    assert images.shape == (20, 1, 32, 32)
    inner = images[:, :, 2:30, 2:30]
    assert torch.equal(data.value_range.decode(inner), original)
    images[:, :, 2:30, 2:30] = -1
    assert (images == -1).all()


def test_provenance(tiny, tmp_path):
    tiny.write(tmp_path)
    data = ImageDataModule("mnist", tmp_path, val_size=10)
    with pytest.raises(RuntimeError, match=r"setup\(\)"):
        _ = data.provenance
    data.setup()
    assert data.provenance == {
        "dataset": "mnist",
        "source": "full",
        "num_train": 50,
        "num_val": 10,
        "num_test": 20,
        "sha256": load_images("mnist", tmp_path).sha256,
        "note": "the published training and test splits",
    }


@pytest.mark.slow
def test_bundled_digits_limit_the_validation_split(tmp_path):
    data = ImageDataModule("mnist", tmp_path, source="bundled")
    data.setup()
    provenance = data.provenance
    sizes = [provenance[name] for name in ("num_train", "num_val", "num_test")]
    assert sizes == [4000, 500, 500]
    assert "val_size is 500 instead of 5000" in provenance["note"]
    # a smaller val_size is kept, without a note
    data = ImageDataModule("mnist", tmp_path, source="bundled", val_size=100)
    data.setup()
    assert (data.provenance["num_train"], data.provenance["num_val"]) == (4400, 100)
    assert "instead of" not in data.provenance["note"]


def test_example_images():
    data = fake()
    images = data.example_images(8)
    assert images.shape == (8, 1, 28, 28)
    assert images.dtype == torch.float32
    assert len(identities(images)) == 8
    assert torch.equal(images, data.example_images(8, seed=0, split="train"))
    assert not torch.equal(images, data.example_images(8, seed=1))
    assert len(data.example_images(1000, split="val")) == 50
    with pytest.raises(UserError, match="train, val, test"):
        data.example_images(8, split="dev")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"batch_size": -4}, "data.batch_size=-4"),
        ({"batch_size": 12.5}, "data.batch_size=12.5"),
        ({"val_size": -1}, "data.val_size=-1"),
        ({"val_size": 0.1}, "data.val_size=0.1"),
        ({"train_size": 0}, "data.train_size=0"),
        ({"seed": -1}, "data.seed=-1"),
        ({"image_size": 20}, "data.image_size=32"),
        ({"image_size": 31}, "even number"),
        ({"image_size": "big"}, "whole number"),
        ({"value_range": "unit"}, "zero_one"),
        ({"name": "cifar10"}, "data.channels=3"),
        ({"source": "cloud"}, "bundled"),
        ({"name": "kmnist", "source": "bundled"}, "data=mnist"),
        ({"num_images": 10}, "data=fake"),
        ({"channels": 3}, "data=fake"),
        ({"name": "fake", "num_images": 0}, "data.num_images=0"),
        ({"name": "fake", "image_size": 2}, "at least 4"),
    ],
)
def test_invalid_settings_are_rejected(settings, message):
    with pytest.raises(UserError, match=message) as raised:
        ImageDataModule(**settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("settings", [{"val_size": 200}, {"val_size": 150, "train_size": 51}])
def test_sizes_larger_than_the_data_are_rejected(settings):
    with pytest.raises(UserError, match="expected") as raised:
        fake(**settings)
    assert "\n" not in str(raised.value)

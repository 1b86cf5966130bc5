"""Feature extractors: features, supported and rejected images, files."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusion_lab.data.sources.fake import draw_bars
from diffusion_lab.data.sources.published import load_images
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.classifier import Classifier
from diffusion_lab.evaluation.features.extractor import Features, unpadded
from diffusion_lab.evaluation.features.load import SHIPPED, load_extractor, shipped_versions


def bars(n, size=28, channels=1):
    return draw_bars(n, size, channels, torch.Generator().manual_seed(3))[0]


def digits(tmp_path):
    """Return images and labels of the full test split if present, else 500 bundled digits."""
    folder = Path(os.environ.get("DIFFUSION_LAB_DATA", tmp_path))
    full = (folder / "MNIST" / "raw" / "t10k-images-idx3-ubyte").is_file()
    found = (
        load_images("mnist", folder, "full") if full else load_images("mnist", tmp_path, "bundled")
    )
    return found.test_images, found.test_labels, full


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_features_match_the_network_in_batches_of_any_size(fake_extractor):
    extractor = load_extractor(str(fake_extractor))
    extractor.batch_size = 4
    images, progress = bars(10), []
    features = extractor(images, progress=progress.append)
    assert progress == [4, 4, 2]

    network = Classifier()
    network.load_state_dict(load_file(fake_extractor / "fake_v1.safetensors"))
    network.eval()
    with torch.no_grad():
        values = network.body(images.double().div(255).float() * 2 - 1)
        logits = network.head(values).double().numpy()
    np.testing.assert_allclose(features.values, values.numpy(), atol=1e-5)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(features.probabilities, expected, atol=1e-5)
    assert features.values.dtype == features.probabilities.dtype == np.float64
    assert (extractor.num_features, extractor.num_classes) == (64, 10)
    assert len(extractor(images[:0])) == 0


def test_features_are_sliced_and_concatenated():
    values, probabilities = np.arange(12.0).reshape(4, 3), np.ones((4, 0))
    features = Features(values, probabilities)
    joined = Features.concatenate([features[1:3], features[[0]]])
    assert len(joined) == 3 and joined.probabilities.shape == (3, 0)
    np.testing.assert_array_equal(joined.values, values[[1, 2, 0]])


def test_padding_is_undone(fake_extractor):
    extractor = load_extractor(str(fake_extractor))
    images = bars(6)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    torch.testing.assert_close(unpadded(padded, (1, 28, 28)), images)
    np.testing.assert_array_equal(extractor(padded).values, extractor(images).values)
    wide = torch.nn.functional.pad(images, (4, 4, 0, 0))  # data.image_size=[28,36]
    np.testing.assert_array_equal(extractor(wide).values, extractor(images).values)
    nearly = padded.clone()
    nearly[:, :, 0] = 20  # a sampled image is not quite black at its edges
    np.testing.assert_array_equal(extractor(nearly).values, extractor(images).values)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 1, 28, 28), np.uint8), ["ndarray", "tensor"]),
        (torch.zeros(2, 1, 28, 28), ["float32", "uint8", "round"]),
        (torch.full((2, 1, 28, 28), torch.nan), ["float32 and not all finite", "uint8"]),
        (torch.zeros(2, 1, 28, 28, dtype=torch.int64), ["int64", "uint8"]),
        (torch.zeros(1, 28, 28, dtype=torch.uint8), ["(1, 28, 28)", "(N, C, H, W)"]),
        (torch.zeros(2, 3, 28, 28, dtype=torch.uint8), ["3 channels", "extractor=inception"]),
        (torch.zeros(2, 1, 20, 20, dtype=torch.uint8), ["20x20", "28x28", "data.image_size"]),
        (torch.zeros(2, 1, 31, 31, dtype=torch.uint8), ["31x31", "32x32"]),
        (torch.zeros(2, 1, 28, 31, dtype=torch.uint8), ["28x31", "32x32"]),
        (torch.full((2, 1, 64, 64), 99, dtype=torch.uint8), ["64x64", "not black", "99 of 255"]),
    ],
)
def test_unsupported_images_are_rejected_in_one_line(fake_extractor, images, words):
    with pytest.raises(UserError) as error:
        load_extractor(str(fake_extractor))(images)
    for word in words:
        assert word in one_line(error)


@pytest.mark.parametrize("name", ["mnist_v0", "", "{folder}", "{file}"])
def test_an_unknown_extractor_is_rejected(tmp_path, name):
    (tmp_path / "file").touch()
    name = name.format(folder=tmp_path, file=tmp_path / "file")
    with pytest.raises(UserError, match="is no extractor") as error:
        load_extractor(name)
    assert "inception" in one_line(error) and "train_extractor.py" in str(error.value)


def altered(folder, file, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = bytearray((copy / file).read_bytes())
    (copy / file).write_bytes(change(content))
    return str(copy)


def flip_last_bit(content):
    content[-1] ^= 1
    return content


def test_one_altered_bit_of_the_weights_is_detected(fake_extractor, tmp_path):
    name = altered(fake_extractor, "fake_v1.safetensors", tmp_path, flip_last_bit)
    with pytest.raises(UserError, match=r"fake_v1\.safetensors has been altered") as error:
        load_extractor(name)
    assert "restore it" in one_line(error)


def test_missing_weights_are_reported(fake_extractor, tmp_path):
    name = altered(fake_extractor, "fake_v1.json", tmp_path, bytes)
    Path(name, "fake_v1.safetensors").unlink()
    with pytest.raises(UserError, match=r"fake_v1\.safetensors cannot be read"):
        load_extractor(name)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:40],
        lambda content: b"[]",
        lambda content: b"\xff\xfe",
        lambda content: content.replace(b'"reference_sha256"', b'"other"'),
        lambda content: content.replace(b'"dataset"', b'"other"'),
        lambda content: content.replace(b'"num_classes": 10', b'"num_classes": -1'),
    ],
    ids=["cut", "list", "bytes", "no reference", "no data", "no classes"],
)
def test_a_damaged_record_is_reported(fake_extractor, tmp_path, change):
    name = altered(fake_extractor, "fake_v1.json", tmp_path, change)
    with pytest.raises(UserError, match=r"fake_v1\.json is damaged") as error:
        load_extractor(name)
    one_line(error)


def test_weights_of_another_network_are_rejected(fake_extractor, tmp_path):
    name = altered(
        fake_extractor,
        "fake_v1.json",
        tmp_path,
        lambda content: content.replace(b'"num_classes": 10', b'"num_classes": 9'),
    )
    with pytest.raises(UserError, match="does not hold the weights of the network in"):
        load_extractor(name)


@pytest.mark.parametrize("name", shipped_versions())
def test_a_shipped_extractor_is_small_and_whole(name):
    record = json.loads((SHIPPED / f"{name}.json").read_text())
    assert (SHIPPED / f"{name}.safetensors").stat().st_size < 2**20
    extractor = load_extractor(name)
    assert extractor.name == name and extractor.sha256 == record["sha256"]
    seen = extractor(torch.randint(0, 256, (4, *record["image_shape"]), dtype=torch.uint8))
    assert np.isfinite(seen.values).all() and seen.values.shape == (4, record["num_features"])
    np.testing.assert_allclose(seen.probabilities.sum(1), 1)
    claimed = record["accuracy"]["test"]
    assert claimed["errors"] / claimed["images"] < 0.1


@pytest.mark.parametrize("name", [name for name in shipped_versions() if name.startswith("mnist_")])
def test_a_shipped_extractor_has_the_accuracy_of_its_record(name, tmp_path):
    record = json.loads((SHIPPED / f"{name}.json").read_text())
    extractor = load_extractor(name)
    images, labels, full = digits(tmp_path)
    wrong = int((extractor(images).probabilities.argmax(axis=1) != labels.numpy()).sum())
    claimed = record["accuracy"]["test"]
    assert 1 - claimed["errors"] / claimed["images"] >= 0.995
    if full:
        # rounding of another processor may decide between equally likely classes
        assert abs(wrong - claimed["errors"]) <= 1
    else:
        assert wrong <= 5  # of 500


def test_mnist_v1_is_shipped():
    assert "mnist_v1" in shipped_versions()

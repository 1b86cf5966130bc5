"""DINOv2 for FD-DINOv2: its layers and resize written out, and the file of its weights."""

import hashlib
import math
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import transforms

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features import dinov2
from diffusion_lab.evaluation.features.dinov2 import (
    VisionTransformer,
    resized_by_pillow,
    weights_of,
)
from diffusion_lab.evaluation.features.load import load_extractor
from tests.evaluation.test_extractor import one_line

SIDE = 5  # patches along a side of the images of a pretended training


def published(width, depth, side=SIDE):
    """Random weights under the names of the published file."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape, about=0.0):
        return about + 0.1 * torch.randn(shape, generator=generator)

    weights = {
        "embeddings.cls_token": random(1, 1, width),
        "embeddings.mask_token": random(1, width),  # of the training, as in the published file
        "embeddings.position_embeddings": random(1, 1 + side**2, width),
        "embeddings.patch_embeddings.projection.weight": random(width, 3, 14, 14),
        "embeddings.patch_embeddings.projection.bias": random(width),
        "layernorm.weight": random(width, about=1.0),
        "layernorm.bias": random(width),
    }
    square = [f"attention.attention.{name}" for name in ("query", "key", "value")]
    sizes = dict.fromkeys((*square, "attention.output.dense"), (width, width))
    sizes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for k in range(depth):
        for name, (out, into) in sizes.items():
            weights[f"encoder.layer.{k}.{name}.weight"] = random(out, into)
            weights[f"encoder.layer.{k}.{name}.bias"] = random(out)
        for name in ("norm1", "norm2"):
            weights[f"encoder.layer.{k}.{name}.weight"] = random(width, about=1.0)
            weights[f"encoder.layer.{k}.{name}.bias"] = random(width)
        for n in (1, 2):
            weights[f"encoder.layer.{k}.layer_scale{n}.lambda1"] = random(width, about=0.5)
    return weights


def written_out(weights, x, heads):
    """DINOv2's equations on images (B, 3, H, W), in NumPy and for a grid of SIDE x SIDE."""
    w = {name: value.double().numpy() for name, value in weights.items()}

    def linear(h, name):
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(h, name):
        h = h - h.mean(-1, keepdims=True)
        return (
            h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"]
            + w[f"{name}.bias"]
        )

    x = x.double().numpy()
    batch, _, height, width = x.shape
    cut = x.reshape(batch, 3, height // 14, 14, width // 14, 14).transpose(0, 2, 4, 1, 3, 5)
    kernel = w["embeddings.patch_embeddings.projection.weight"]
    patches = cut.reshape(batch, -1, 3 * 14 * 14) @ kernel.reshape(len(kernel), -1).T
    patches = patches + w["embeddings.patch_embeddings.projection.bias"]
    first = np.broadcast_to(w["embeddings.cls_token"], (batch, 1, len(kernel)))
    h = np.concatenate([first, patches], 1) + w["embeddings.position_embeddings"]
    for k in range(sum(name.endswith("norm1.weight") for name in w)):
        layer = f"encoder.layer.{k}"
        seen = norm(h, f"{layer}.norm1")
        q, key, v = (
            np.stack(np.split(linear(seen, f"{layer}.attention.attention.{n}"), heads, -1), 1)
            for n in ("query", "key", "value")
        )
        scores = q @ key.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = scores / scores.sum(-1, keepdims=True) @ v
        mixed = np.concatenate(list(mixed.transpose(1, 0, 2, 3)), -1)
        h = h + w[f"{layer}.layer_scale1.lambda1"] * linear(
            mixed, f"{layer}.attention.output.dense"
        )
        inner = linear(norm(h, f"{layer}.norm2"), f"{layer}.mlp.fc1")
        inner = inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2))) / 2
        h = h + w[f"{layer}.layer_scale2.lambda1"] * linear(inner, f"{layer}.mlp.fc2")
    return norm(h, "layernorm")[:, 0]


def test_features_are_those_of_the_equations():
    weights = published(width=12, depth=2)
    network = VisionTransformer(12, 2, heads=3, trained_side=SIDE).eval()
    network.load_state_dict(weights_of(weights))
    x = torch.randn(2, 3, 14 * SIDE, 14 * SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = network(x).numpy()
    expected = written_out(weights, x, heads=3)
    assert expected.std(0).min() > 1e-3  # the random network tells the images apart
    np.testing.assert_allclose(features, expected, atol=2e-5)


def test_positions_are_read_where_the_published_code_reads_them():
    """At (i + 1/2) side / (rows + 0.1) - 1/2, by cubic convolution with a = -0.75."""
    network = VisionTransformer(2, 1, heads=1, trained_side=9)
    nn.init.normal_(network.positions)
    given = network.positions.detach().double().numpy()[0, 1:].reshape(9, 9, 2)

    def matrix(count):
        where = (np.arange(count) + 0.5) * 9 / (count + 0.1) - 0.5
        rows = np.zeros((count, 9))
        for row, at in enumerate(where):
            for k in range(math.floor(at) - 1, math.floor(at) + 3):
                d, a = abs(at - k), -0.75
                near = (a + 2) * d**3 - (a + 3) * d**2 + 1
                far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
                rows[row, min(max(k, 0), 8)] += near if d <= 1 else far
        return rows

    found = network.interpolated_positions(4, 6).detach()
    expected = np.einsum("ri,cj,ijd->rcd", matrix(4), matrix(6), given)
    np.testing.assert_allclose(found[0, 1:].reshape(4, 6, 2).numpy(), expected, atol=1e-5)
    assert torch.equal(found[:, :1], network.positions[:, :1])
    assert network.interpolated_positions(9, 9) is network.positions


@pytest.mark.parametrize("size", [(32, 32), (28, 20), (300, 260)])
def test_images_are_prepared_as_by_dgm_eval(size):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=generator)
    theirs = transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC)
    pictures = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pixels]
    expected = torch.stack([transforms.ToTensor()(theirs(picture)) for picture in pictures])
    torch.testing.assert_close(resized_by_pillow(pixels, 224) / 255, expected)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file in the published format, of one layer in place of 24."""
    path = tmp_path_factory.mktemp("dinov2") / dinov2.FILE
    save_file(published(dinov2.NUM_FEATURES, 1, side=37), path)
    return path


def accept(file, monkeypatch):
    """Take a file for the published one."""
    monkeypatch.setattr(dinov2, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setattr(dinov2, "VisionTransformer", partial(VisionTransformer, depth=1))


@pytest.mark.slow
def test_the_extractor_gives_the_networks_features(file, monkeypatch):
    accept(file, monkeypatch)
    extractor = load_extractor(str(file))
    generator = torch.Generator().manual_seed(0)
    gray = torch.randint(0, 256, (3, 1, 28, 20), dtype=torch.uint8, generator=generator)
    features = extractor(gray)
    assert features.values.shape == (3, 1024) and features.probabilities.shape == (3, 0)
    colour = gray.expand(-1, 3, -1, -1)
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    network = VisionTransformer(depth=1).eval()
    network.load_state_dict(weights_of(published(1024, 1, side=37)))
    with torch.no_grad():
        expected = network(normalise(resized_by_pillow(colour, 224) / 255))
    np.testing.assert_allclose(features.values, expected.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(extractor(colour).values, features.values)
    assert (extractor.name, extractor.sha256) == ("dinov2", dinov2.SHA256)
    with pytest.raises(UserError, match="gray \\(1 channel\\)"):
        extractor(gray.expand(-1, 2, -1, -1))


def test_the_weights_are_found_in_the_hubs_cache(file, monkeypatch):
    accept(file, monkeypatch)
    monkeypatch.setattr(dinov2, "try_to_load_from_cache", lambda repository, name: str(file))
    assert load_extractor("dinov2").num_features == 1024


def test_it_is_never_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(dinov2, "try_to_load_from_cache", lambda repository, name: None)
    with pytest.raises(UserError, match="extractor=dinov2 needs its weights") as error:
        load_extractor("dinov2")
    assert "hf download facebook/dinov2-large model.safetensors" in one_line(error)
    with pytest.raises(UserError, match="cannot read") as error:
        load_extractor(str(tmp_path / "missing.safetensors"))
    one_line(error)


def test_no_other_weights_are_taken_for_the_published_ones(file, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="does not hold the published weights") as error:
        load_extractor(str(file))
    assert "399fba97" in one_line(error)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"other weights")
    accept(damaged, monkeypatch)
    with pytest.raises(UserError, match="cannot be loaded") as error:
        load_extractor(str(damaged))
    one_line(error)

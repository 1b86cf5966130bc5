"""Inception with the weights of published FIDs: against torch-fidelity, and its file."""

import hashlib
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features import inception
from diffusion_lab.evaluation.features.inception import fid_inception, resized_like_tensorflow
from diffusion_lab.evaluation.features.load import load_extractor
from tests.evaluation.test_extractor import bars, one_line

FILE = inception.FILES[0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Write random weights of the published file's format, as the real ones need a download."""
    torch.manual_seed(0)
    network = fid_inception()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.3, 1.5)
            nn.init.uniform_(module.weight, 0.7, 1.6)
            nn.init.normal_(module.bias, 0, 0.2)
    file = tmp_path_factory.mktemp("inception") / FILE
    # the published file has torch's old format
    torch.save(network.state_dict(), file, _use_new_zipfile_serialization=False)
    return file


def accept(file, monkeypatch):
    """Take a file for the published one."""
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20), (3, 320, 310)])
def test_features_are_those_of_torch_fidelity(weights, monkeypatch, shape):
    # not among the test dependencies: its wheel also installs a package called tests
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    FeatureExtractorInceptionV3 = inception.FeatureExtractorInceptionV3

    accept(weights, monkeypatch)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=generator)
    ours = load_extractor(str(weights))(images)
    assert ours.values.shape == (3, 2048) and ours.probabilities.shape == (3, 0)
    theirs = FeatureExtractorInceptionV3("", ["2048"], feature_extractor_weights_path=str(weights))
    (expected,) = theirs(images.expand(-1, 3, -1, -1))
    np.testing.assert_allclose(ours.values, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert expected.std() > 0.01  # the random network tells images apart


@pytest.mark.parametrize("size", [(32, 32), (28, 20), (400, 350)])
def test_images_are_resized_as_by_tensorflow_1(size):
    """Output pixel i is read at i x input / output, between the two nearest pixels."""
    images = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(0)) * 255
    rows, columns = (np.arange(299) * (side / 299) for side in size)
    exact = [np.interp(columns, np.arange(size[1]), row) for row in images[0, 0].double().numpy()]
    exact = [np.interp(rows, np.arange(size[0]), column) for column in np.array(exact).T]
    found = resized_like_tensorflow(images, 299)
    assert found.shape == (1, 2, 299, 299)
    np.testing.assert_allclose(found[0, 0].numpy(), np.array(exact).T, atol=0.02)


def test_inception_is_never_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"needs its weights in .*6726825d\.pth") as error:
        load_extractor("inception")
    line = one_line(error)
    assert "https://" in line and "extractor=<folder>/" in line
    assert not list(tmp_path.rglob("*.pth"))


def test_no_other_weights_are_taken_for_the_published_ones(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / inception.FILES[1]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"other weights")
    for name in ("inception", str(file)):
        with pytest.raises(UserError, match="does not hold the weights of published FIDs") as error:
            load_extractor(name)
        assert "6726825d" in one_line(error) and "https://" in str(error.value)


def test_a_file_that_would_run_code_is_not_unpickled(monkeypatch, tmp_path):
    file = tmp_path / FILE
    torch.save({"conv": print}, file)
    accept(file, monkeypatch)
    with pytest.raises(UserError, match="cannot be loaded") as error:
        load_extractor(str(file))
    one_line(error)


@pytest.mark.slow
def test_the_weights_are_found_under_both_names(weights, monkeypatch, tmp_path):
    accept(weights, monkeypatch)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(weights, folder / inception.FILES[1])
    extractor = load_extractor("inception")
    assert extractor.sha256 == inception.SHA256
    with pytest.raises(UserError, match="gray \\(1 channel\\)"):
        extractor(bars(1, channels=1).expand(-1, 2, -1, -1))

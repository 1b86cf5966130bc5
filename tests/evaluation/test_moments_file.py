"""Published moments as a reference: FID against them, and files that are rejected."""

import logging

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import Features
from diffusion_lab.evaluation.features.find_reference import training_moments
from diffusion_lab.evaluation.features.moments_file import read_moments
from diffusion_lab.evaluation.score import FeatureScorer
from diffusion_lab.evaluation.scorer import ImageScorer
from tests.evaluation.test_metrics import Flat
from tests.evaluation.test_reference import Means, Stored, small_set

REAL = torch.rand(300, 12, 1, 1, generator=torch.Generator().manual_seed(0))
FAKE = REAL[:200] ** 2


class TwelveValues(Means):
    """Stands for an extractor of 12 features and 3 classes."""

    def __init__(self):
        super().__init__()
        self.num_features, self.num_classes = 12, 3


def save(path, mu=None, sigma=None, **more):
    values = REAL.flatten(1).double().numpy()
    mu = values.mean(0) if mu is None else mu
    sigma = np.cov(values, rowvar=False) if sigma is None else sigma
    np.savez(path, mu=mu, sigma=sigma, **more)
    return path


def test_fid_is_that_of_the_features_themselves(tmp_path, caplog):
    reference = read_moments(save(tmp_path / "real.npz", arr_0=np.zeros(9)), TwelveValues())
    scorer = FeatureScorer(reference)
    samples = Features(FAKE.flatten(1).double().numpy(), np.eye(3)[np.arange(200) % 3])
    with caplog.at_level(logging.WARNING):
        scores = scorer(samples, np.arange(200) % 3)
    other = FrechetInceptionDistance(feature=Flat(), input_img_size=(12, 1, 1)).set_dtype(
        torch.float64
    )
    other.update(REAL.double(), real=True)
    other.update(FAKE.double(), real=False)
    assert scores["fid"] == pytest.approx(float(other.compute()), rel=1e-6)
    # what concerns the samples alone stays
    assert scores.keys() == {"fid", "class_entropy", "confidence", "label_agreement"}
    assert "real.npz (sha256 " in caplog.text and "are left out" in caplog.text


def test_the_moments_of_the_training_images_are_computed_once(tmp_path):
    extractor, data = Means(), Stored(small_set(), tmp_path / "data")
    found = [training_moments(extractor, lambda: data)]
    looks = extractor.looks
    found += [training_moments(extractor, lambda: data)]
    assert extractor.looks == looks > 0
    pixels = data.images.train_images.double().div(255)
    expected = torch.stack([pixels.mean((1, 2, 3)), pixels.amax((1, 2, 3))])
    for reference in found:
        assert reference.data == "30 training images of bars" and not len(reference.test)
        np.testing.assert_allclose(reference.test_moments.mean, expected.mean(1), atol=1e-6)
        np.testing.assert_allclose(reference.test_moments.covariance, expected.cov(), atol=1e-6)
    [file] = (tmp_path / "data" / "references").iterdir()
    file.write_bytes(file.read_bytes()[:90])
    again = training_moments(extractor, lambda: data)
    np.testing.assert_array_equal(again.test_moments.mean, found[0].test_moments.mean)


def test_there_is_no_baseline(tmp_path):
    scorer = ImageScorer(TwelveValues(), read_moments(save(tmp_path / "a.npz"), TwelveValues()))
    assert scorer.floor(100) == {}


SIGMA = np.eye(12)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.zeros(11)}, "mu (11,) and sigma (12, 12): expected (12,)"),
        ({"sigma": np.eye(5)}, "sigma (5, 5)"),
        ({"mu": np.full(12, np.nan)}, "not finite"),
        ({"sigma": SIGMA + np.eye(12, k=1)}, "expected a symmetric matrix"),
        ({"sigma": -SIGMA}, "no covariance"),
        ({"sigma": SIGMA.astype(str)}, "sigma holds"),
        ({"mu": np.array([None] * 12)}, "cannot be read (ValueError)"),  # would be unpickled
    ],
)
def test_arrays_that_are_no_moments_are_rejected(tmp_path, arrays, words):
    file = save(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError) as error:
        read_moments(file, TwelveValues())
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"no arrays"), "cannot be read"),
        (lambda path: path.write_bytes(b"\x80\x04N."), "cannot be read"),  # a pickle, as EDM2's
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: np.savez(path, mean=np.zeros(12)), "has no array mu"),
        (lambda path: np.save(path.open("wb"), np.zeros(12)), "cannot be read"),
    ],
)
def test_files_that_hold_no_moments_are_rejected(tmp_path, write, words):
    write(tmp_path / "bad.npz")
    with pytest.raises(UserError) as error:
        read_moments(tmp_path / "bad.npz", TwelveValues())
    assert words in str(error.value) and "mu (F,) and sigma (F, F)" in str(error.value)

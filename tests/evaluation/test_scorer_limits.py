"""Invalid or too few inputs of a scorer: reported, never scored wrongly."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import Features
from diffusion_lab.evaluation.features.reference import Reference
from diffusion_lab.evaluation.metrics import Moments
from diffusion_lab.evaluation.score import FeatureScorer
from diffusion_lab.evaluation.scorer import ImageScorer

NEIGHBOURHOODS = {"precision", "recall", "density", "coverage"}


def features(n, seed, num_classes=10):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(num_classes, 0.1), size=n)
    return Features(random.normal(size=(n, 8)), probabilities)


def made_up_reference(n):
    test, train = features(n, 1), features(n, 2)
    labels = np.arange(n) % 10
    moments = (Moments.of(part.values) for part in (test, train))
    return Reference("made up", "none", "0" * 64, test, labels, train, labels, *moments)


@pytest.mark.parametrize(
    ("n", "absent", "warning"),
    [
        (2, NEIGHBOURHOODS | {"fid"}, "2 real test images: only KID"),
        (5, NEIGHBOURHOODS | {"fid"}, "5 real test images: only KID"),
        (6, {"fid"}, "6 real test images: FID is left out"),
        (8, {"fid"}, "8 real test images: FID is left out"),
        (9, set(), ""),
    ],
)
def test_too_few_real_images_leave_out_metrics(n, absent, warning, caplog):
    scores = FeatureScorer(made_up_reference(n))(features(50, 3))
    assert (NEIGHBOURHOODS | {"fid"}) - scores.keys() == absent
    assert np.isfinite(list(scores.values())).all()
    assert caplog.messages == [] if not warning else warning in caplog.text


@pytest.mark.parametrize("shape", [(49,), (50, 1), ()])
def test_there_is_one_label_for_each_sample(shape):
    """(50, 1) compared with (50,) would broadcast to 2,500 comparisons and a wrong fraction."""
    with pytest.raises(UserError, match=r"labels of shape \(.*\) for 50 samples"):
        FeatureScorer(made_up_reference(20))(features(50, 3), np.zeros(shape, dtype=int))


def test_another_number_of_classes_than_the_reference_is_rejected():
    with pytest.raises(UserError, match="7 classes, but the reference of extractor none has 10"):
        FeatureScorer(made_up_reference(20))(features(50, 3, num_classes=7))


def test_a_reference_of_another_extractor_is_rejected():
    reference = made_up_reference(20)
    ImageScorer(SimpleNamespace(name="none", sha256="0" * 64, num_features=8), reference)
    with pytest.raises(UserError, match=r"by extractor none \(sha256 00000000\).*other \(1111"):
        ImageScorer(SimpleNamespace(name="other", sha256="1" * 64), reference)

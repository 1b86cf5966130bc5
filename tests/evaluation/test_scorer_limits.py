"""What a scorer is given that does not fit, or is too little of: said, never scored wrongly."""

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
    ("n", "gone", "said"),
    [
        (2, NEIGHBOURHOODS | {"fid"}, "2 real test images: only KID"),
        (5, NEIGHBOURHOODS | {"fid"}, "5 real test images: only KID"),
        (6, {"fid"}, "6 real test images are no more than the 8 features"),
        (8, {"fid"}, "8 real test images are no more than the 8 features"),
        (9, set(), ""),
    ],
)
def test_too_few_real_images_leave_out_what_does_not_stand(n, gone, said, caplog):
    scores = FeatureScorer(made_up_reference(n))(features(50, 3))
    assert (NEIGHBOURHOODS | {"fid"}) - scores.keys() == gone
    assert np.isfinite(list(scores.values())).all()
    assert caplog.messages == [] if not said else said in caplog.text


@pytest.mark.parametrize("shape", [(49,), (50, 1), ()])
def test_there_is_one_label_for_each_sample(shape):
    """(50, 1) against (50,) would be a table of 2,500 comparisons, and their mean a wrong share."""
    with pytest.raises(UserError, match=r"labels of shape \(.*\) for 50 samples"):
        FeatureScorer(made_up_reference(20))(features(50, 3), np.zeros(shape, dtype=int))


def test_other_classes_than_those_of_the_real_images_are_refused():
    with pytest.raises(UserError, match="7 classes, the reference of none has 10"):
        FeatureScorer(made_up_reference(20))(features(50, 3, num_classes=7))


def test_a_reference_that_another_extractor_saw_is_refused():
    reference = made_up_reference(20)
    ImageScorer(SimpleNamespace(name="none", sha256="0" * 64), reference)
    with pytest.raises(UserError, match=r"by extractor none \(sha256 00000000\).*other \(1111"):
        ImageScorer(SimpleNamespace(name="other", sha256="1" * 64), reference)

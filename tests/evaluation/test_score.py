"""Scores: metrics, warnings about metrics left out, and the effect of degraded digits."""

import logging

import numpy as np
import pytest
import torch

from diffusion_lab.data.mnist.bundled import bundled_digits
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import Features
from diffusion_lab.evaluation.features.load import load_extractor
from diffusion_lab.evaluation.features.reference import Reference, load_reference
from diffusion_lab.evaluation.metrics import Moments
from diffusion_lab.evaluation.score import IMAGE_METRICS, FeatureScorer, floor
from diffusion_lab.evaluation.scorer import ImageScorer
from diffusion_lab.tools.metric_sanity import sanity


def features(n, seed, shift=0.0, dimensions=8):
    random = np.random.default_rng(seed)
    values = random.normal(shift, 1, size=(n, dimensions))
    probabilities = random.dirichlet(np.full(10, 0.1), size=n)
    return Features(values, probabilities)


def made_up_reference(n=200):
    test, train = features(n, 1), features(n, 2)
    labels = np.arange(n) % 10
    moments = (Moments.of(part.values) for part in (test, train))
    return Reference("made up", "none", "0" * 64, test, labels, train, labels, *moments)


@pytest.fixture(scope="module")
def scorer():
    return FeatureScorer(made_up_reference())


def test_every_metric_is_computed_and_reported_as_progress(scorer):
    reported = []
    asked = np.zeros(100, dtype=int)
    scores = scorer(features(100, 3), asked, progress=reported.append)
    assert list(scores) == reported == list(IMAGE_METRICS)
    assert "label_agreement" not in scorer(features(100, 3))


def test_the_test_images_themselves_are_perfect(scorer):
    scores = scorer(scorer.reference.test)
    assert scores["fid"] == pytest.approx(0, abs=1e-9)
    assert (scores["precision"], scores["recall"], scores["coverage"]) == (1, 1, 1)
    assert scores["class_tv"] == 0


def test_label_agreement_is_the_fraction_of_correct_classes(scorer):
    given = features(100, 3)
    asked = given.probabilities.argmax(1)
    asked[:25] = (asked[:25] + 1) % 10
    assert scorer(given, asked)["label_agreement"] == 0.75


@pytest.mark.parametrize(
    ("n", "present", "absent", "warning"),
    [
        (8, {"kid", "precision", "recall", "density", "coverage"}, {"fid"}, "FID is left out"),
        (4, {"kid", "confidence"}, {"fid", "precision", "coverage"}, "only KID"),
    ],
)
def test_too_few_samples_leave_out_metrics_and_warn_once(n, present, absent, warning, caplog):
    scorer = FeatureScorer(made_up_reference())
    with caplog.at_level(logging.WARNING):
        scores = scorer(features(n, 3))
        scorer(features(n, 4))
    assert present <= scores.keys() and not absent & scores.keys()
    assert caplog.text.count(warning) == 1


def test_a_single_class_is_scored_with_a_warning(scorer, caplog):
    probabilities = np.tile(np.eye(10)[4], (50, 1))
    scores = scorer(Features(features(50, 3).values, probabilities))
    assert scores["class_entropy"] == 0
    assert "all 50 samples are classified as 4" in caplog.text


def test_invalid_samples_are_rejected(scorer):
    with pytest.raises(UserError, match="12 features, but the reference of extractor none has 8"):
        scorer(features(50, 3, dimensions=12))
    with pytest.raises(UserError, match="expected at least 2"):
        scorer(features(1, 3))
    broken = features(50, 3)
    broken.values[7, 2] = np.nan
    with pytest.raises(UserError, match="not all finite"):
        scorer(broken)
    with pytest.raises(UserError, match="from 2 to 200"):
        floor(scorer, 201, [0])


def test_an_extractor_without_classes_has_no_class_metrics(scorer):
    scores = scorer(Features(features(50, 3).values, np.empty((50, 0))))
    assert "confidence" not in scores and "fid" in scores


def test_the_baseline_is_the_score_of_real_training_images(scorer):
    drawn = floor(scorer, 50, [0, 1])
    assert drawn[0] != drawn[1]
    chosen = np.random.default_rng(1).permutation(200)[:50]
    reference = scorer.reference
    by_hand = scorer(reference.train[chosen], reference.train_labels[chosen])
    assert drawn[1] == by_hand
    (whole,) = floor(scorer, 200, [0])
    assert whole["fid"] == pytest.approx(scorer(reference.train)["fid"])


@pytest.fixture(scope="module")
def degraded_scores(tmp_path_factory):
    """Score 2,000 real digits, degraded in several ways, with the shipped extractor."""
    images, labels = bundled_digits(tmp_path_factory.mktemp("data"))
    chosen = torch.randperm(5000, generator=torch.Generator().manual_seed(0))[:2000]
    pixels = torch.from_numpy(images)[chosen][:, None]
    extractor = load_extractor("mnist_v1")
    scorer = ImageScorer(extractor, load_reference(extractor))
    return sanity(scorer, pixels, torch.from_numpy(labels.astype(np.int64))[chosen])


@pytest.mark.slow
def test_degraded_digits_move_each_metric_in_the_expected_direction(degraded_scores):
    real = degraded_scores["real"]
    assert real["fid"] < 1
    for name in ("blurred (1 pixel)", "shifted (4 pixels)", "noisy (0.2 of white)"):
        scores = degraded_scores[name]
        assert scores["fid"] > 3 * real["fid"], name
        assert scores["kid"] > 3 * abs(real["kid"]), name
        assert scores["precision"] < real["precision"], name
        assert scores["coverage"] < real["coverage"], name
    assert degraded_scores["blurred (1 pixel)"]["confidence"] < real["confidence"]
    noise = degraded_scores["pure noise"]
    assert noise["fid"] > 100 * real["fid"]
    assert noise["precision"] < 0.01 and noise["recall"] < 0.01 and noise["coverage"] < 0.01


@pytest.mark.slow
def test_missing_classes_lower_diversity_and_not_fidelity(degraded_scores):
    real, without = degraded_scores["real"], degraded_scores["without 7, 8, 9"]
    assert without["precision"] > real["precision"] - 0.03
    assert without["recall"] < real["recall"] - 0.1
    assert without["coverage"] < real["coverage"] - 0.1
    assert without["class_tv"] == pytest.approx(0.3, abs=0.03)
    assert without["class_entropy"] == pytest.approx(np.log2(7), abs=0.05)
    only = degraded_scores["only the 3s"]
    assert only["class_entropy"] < 0.1 and only["label_agreement"] > 0.98
    assert only["fid"] > without["fid"] > 3 * real["fid"]


@pytest.mark.slow
def test_repeated_digits_lower_coverage(degraded_scores):
    real, repeated = degraded_scores["real"], degraded_scores["a tenth, ten times"]
    assert repeated["coverage"] < 0.6 * real["coverage"]
    assert repeated["precision"] > real["precision"] - 0.05

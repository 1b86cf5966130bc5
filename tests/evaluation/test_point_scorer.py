import numpy as np
import pytest
import torch

from diffusion_lab.data.sources.points import Points
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.energy_distance import EnergyDistance
from diffusion_lab.evaluation.point_scorer import PointScorer
from diffusion_lab.evaluation.score import METRICS


def real(name="eight_gaussians", **settings):
    settings = {"num_points": 300, "num_test_points": 200} | settings
    return Points(2, 1, distribution=name, **settings).read()


def test_scores_are_those_of_the_formulas():
    data, samples = real(), 0.5 * torch.randn(80, 2, 1, 1)
    scores = PointScorer(data)(samples).scores
    assert set(scores) == {"energy_distance", "log_density"} <= set(METRICS)
    x, y = samples.flatten(1).double().numpy(), data.test_images.flatten(1).double().numpy()
    assert scores["energy_distance"] == EnergyDistance(y)(x)
    expected = data.distribution.log_density(samples.flatten(1)).mean()
    assert scores["log_density"] == pytest.approx(expected.item())


def test_the_baseline_is_the_score_of_as_many_training_points():
    data = real()
    scorer = PointScorer(data)
    floor = scorer.floor(50)
    assert floor["energy_distance"].n == 3 and floor["log_density"].std > 0
    chosen = np.random.default_rng(0).permutation(300)[:50]
    first = scorer(data.train_images[chosen]).scores["energy_distance"]
    others = [
        scorer(data.train_images[np.random.default_rng(k).permutation(300)[:50]]).scores
        for k in (1, 2)
    ]
    every = [first, *(of["energy_distance"] for of in others)]
    assert floor["energy_distance"].mean == pytest.approx(np.mean(every))
    whole = scorer.floor(10_000)["energy_distance"]
    assert whole.n == 1 and whole.mean == scorer(data.train_images).scores["energy_distance"]


def test_on_the_checkerboard_the_fraction_on_dark_squares_counts():
    data = real("checkerboard")
    scorer = PointScorer(data)
    assert scorer(data.train_images).scores["support"] == 1
    half = torch.cat([data.train_images, data.train_images + 9])
    assert scorer(half).scores == {
        "support": 0.5,
        "energy_distance": pytest.approx(scorer(half).scores["energy_distance"]),
    }


def test_samples_of_another_shape_are_refused():
    scorer = PointScorer(real())
    scorer.check((2, 1, 1))
    with pytest.raises(UserError, match="have the shape 2x3x3, but eight_gaussians has 2x1x1"):
        scorer.check_samples(torch.zeros(4, 2, 3, 3))


def test_a_figure_is_written(tmp_path):
    data = real()
    PointScorer(data).write_samples(data.train_images, tmp_path / "samples.png", 64)
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")

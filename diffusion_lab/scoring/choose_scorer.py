"""Choose the scorer of a kind of data: an extractor and reference images, or real points."""

from collections.abc import Callable

import torch

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.find_reference import (
    Data,
    reference_for,
    training_moments,
)
from diffusion_lab.evaluation.features.load import extractor_for, load_extractor
from diffusion_lab.evaluation.features.moments_file import read_moments
from diffusion_lab.evaluation.features.reference import load_reference
from diffusion_lab.evaluation.point_scorer import PointScorer
from diffusion_lab.evaluation.scorer import ImageScorer, Scorer
from diffusion_lab.runs.data import data_words, run_data
from diffusion_lab.runs.load import Run

TRAINING = "train"
"""Value of reference= that chooses the moments of the training images."""


def choose_scorer(
    name: str | None,
    run: Run,
    data_dir: str | None,
    *,
    data_path: str | None = None,
    moments: str | None = None,
    device: torch.device | str = "cpu",
) -> Scorer:
    """Return a scorer for a run's images, see `choose_image_scorer`, or for its points.

    Points are scored by coordinates: UserError for an extractor or moments.
    """
    if run.value_range.is_pixels:
        return choose_image_scorer(
            name, run, data_dir, data_path=data_path, moments=moments, device=device
        )
    return _of_points(name, moments, run_data(run, data_dir, data_path))


def choose_image_scorer(
    name: str | None,
    run: Run,
    data_dir: str | None,
    *,
    data_path: str | None = None,
    moments: str | None = None,
    device: torch.device | str = "cpu",
) -> ImageScorer:
    """Return a scorer for a run's images, by default with the extractor of the run's data set.

    If no reference is stored beside the extractor, the real images are loaded from `data_dir` or
    from the run's data folder; `data_path` replaces the run's data.path=. `moments` replaces the
    real images by a file of published moments or by TRAINING, the moments of the training images. A
    large extractor runs on `device`. Raises UserError if the extractor or the images are not
    available, and for data that are no pixels.
    """
    run.value_range.check_pixels("a feature extractor")
    data = run.config["data"]["name"]

    def read() -> Data:
        return run_data(run, data_dir, data_path)

    words = data_words(run.config)
    scorer = _scorer(name, data, read, moments, device, padded=True, words=words)
    scorer.check(run.image_shape)
    return scorer


def _of_points(name: str | None, moments: str | None, data: Data) -> PointScorer:
    """Return the scorer against real numbers; UserError for an extractor or moments."""
    for option, given in (("extractor", name), ("reference", moments)):
        if given is not None:
            raise UserError(
                f"{option}= has no effect on data of real numbers, which are compared by their "
                f"energy distance: leave out {option}="
            )
    return PointScorer(data.image_set())


def choose_scorer_of_data(
    name: str | None,
    data: tuple[str, Callable[[], Data]] | None,
    *,
    pixels: bool = True,
    moments: str | None = None,
    device: torch.device | str = "cpu",
) -> Scorer:
    """Return a scorer for images of any origin, against a data set or published moments.

    `data` is the name of the data set and a function that loads its images. Without `data` and
    `moments`, the reference stored beside the extractor's weights is used. `pixels` is False for
    data that are real numbers, such as points. Raises UserError if the extractor or the images are
    not available, and if neither `name` nor `data` is given.
    """
    if name is None and data is None:
        raise UserError(
            "expected extractor= or data=, because files and pipelines do not name their data set: "
            "type for example extractor=mnist_v1, or data=mnist"
        )
    dataset, read = data or (None, None)
    if not pixels and read is not None:
        return _of_points(name, moments, read())
    return _scorer(name, dataset, read, moments, device)


def _scorer(
    name: str | None,
    data: str | None,
    read: Callable[[], Data] | None,
    moments: str | None,
    device: torch.device | str,
    padded: bool = False,
    words: str = "",
) -> ImageScorer:
    extractor = load_extractor(name or extractor_for(str(data), words=words), device)
    if moments == TRAINING and read is not None:
        reference = training_moments(extractor, read)
    elif moments == TRAINING:
        raise UserError(f"reference={TRAINING} needs the training images: type data=<data set>")
    elif moments is not None:
        reference = read_moments(moments, extractor)
    elif data is None or read is None:
        reference = load_reference(extractor)
    else:
        reference = reference_for(extractor, data, read)
    return ImageScorer(extractor, reference, padded)

"""Choose the feature extractor and the reference images to score a run with."""

from diffusion_lab.evaluation.features.load import extractor_for, load_extractor, reference_for
from diffusion_lab.evaluation.scorer import ImageScorer
from diffusion_lab.runs.data import run_data
from diffusion_lab.runs.load import Run


def choose_scorer(name: str | None, run: Run, data_dir: str | None) -> ImageScorer:
    """Return a scorer for a run's images, by default with the extractor of its data set.

    If the extractor has no reference images of that data set, they are loaded from `data_dir` or
    from the run's data folder. Raises UserError if extractor or images are not available.
    """
    data = run.config["data"]["name"]
    extractor = load_extractor(name or extractor_for(data))
    scorer = ImageScorer(
        extractor,
        reference_for(extractor, data, lambda: run_data(run, data_dir)),
        padded=True,
    )
    scorer.check(run.image_shape)
    return scorer

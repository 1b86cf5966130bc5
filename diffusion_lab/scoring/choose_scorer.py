"""Which extractor judges a run, and against which real images."""

from diffusion_lab.evaluation.features.load import extractor_for, load_extractor, reference_for
from diffusion_lab.evaluation.scorer import ImageScorer
from diffusion_lab.runs.data import run_data
from diffusion_lab.runs.load import Run


def choose_scorer(name: str | None, run: Run, data_dir: str | None) -> ImageScorer:
    """The judge of a run's images: by the extractor of that name, by default the one of its data.

    Where the extractor does not bring the real images the data are read, in `data_dir` or where the
    run found them. Raises UserError if that cannot be had.
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

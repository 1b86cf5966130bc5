"""Which extractor judges a run, and against which real images."""

from pathlib import Path

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.extractor import (
    INCEPTION,
    TrainedExtractor,
    load_extractor,
    shipped_for,
)
from diffusion_lab.evaluation.reference import cached_reference, load_reference
from diffusion_lab.run.given_images import run_data
from diffusion_lab.run.judge import Judge
from diffusion_lab.run.load import Run

REFERENCES = "references"
"""The folder beside the data in which computed references are kept."""


def choose_judge(name: str | None, run: Run, data_dir: str | None) -> Judge:
    """The judge of a run's images: by the extractor of that name, by default the one of its data.

    An extractor of the run's data brings the real images as it sees them; for others the data are
    read, in `data_dir` or where the run found them. Raises UserError if that cannot be had.
    """
    data = run.config["data"]["name"]
    extractor = load_extractor(name or extractor_for(data))
    if isinstance(extractor, TrainedExtractor) and extractor.data == data:
        judge = Judge(extractor, load_reference(extractor), padded=True)
    else:
        module = run_data(run, data_dir)
        folder = Path(module.data_dir) / REFERENCES
        judge = Judge(extractor, cached_reference(extractor, module.image_set(), folder))
    judge.check(run.image_shape)
    return judge


def extractor_for(data: str) -> str:
    """The shipped extractor for a data set; UserError where there is none."""
    if name := shipped_for(data):
        return name
    raise UserError(
        f"no extractor comes with data={data}: train one, python scripts/train_extractor.py "
        f"data={data} version={data}_v1, and give its folder, extractor=<folder>; or take "
        f"extractor={INCEPTION}"
    )

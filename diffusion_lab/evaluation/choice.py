"""Which extractor fits some data, and which real images go with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from diffusion_lab.data.folder import REFERENCES, may_write
from diffusion_lab.data.sources import ImageSet
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.extractor import INCEPTION, Extractor, TrainedExtractor, shipped_for
from diffusion_lab.evaluation.reference import Reference, cached_reference, load_reference


class Data(Protocol):
    """What is needed of an ImageDataModule."""

    data_dir: Path

    def image_set(self) -> ImageSet:
        """The images."""


def extractor_for(data: str, setting: str = "extractor") -> str:
    """The shipped extractor for a data set.

    Raises UserError where there is none, which says what else may be typed for `setting`.
    """
    if name := shipped_for(data):
        return name
    raise UserError(
        f"no extractor comes with data={data}: train one, python scripts/train_extractor.py "
        f"data={data} version={data}_v1, and give its folder, {setting}=<folder>; or take "
        f"{setting}={INCEPTION}"
    )


def reference_for(extractor: Extractor, data: str, read: Callable[[], Data]) -> Reference:
    """The real images of the data set `data` as an extractor sees them.

    An extractor that was trained on it brings them; for others they are read, once for all runs,
    and what was seen is kept beside the data, unless that is a folder of other files. Raises
    UserError if it does not take such images.
    """
    if isinstance(extractor, TrainedExtractor) and extractor.data == data:
        return load_reference(extractor)
    there = read()
    images = there.image_set()
    cache = there.data_dir / REFERENCES if may_write(there.data_dir) else None
    return cached_reference(extractor, images, cache)

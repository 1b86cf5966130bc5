"""Which extractor fits some data, and which real images go with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError
from safetensors.torch import load

from diffusion_lab.data.dataset import ImageSet
from diffusion_lab.data.folder import REFERENCES, may_write
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.classifier import Classifier
from diffusion_lab.evaluation.features.extractor import (
    INCEPTION,
    RESTORE,
    Extractor,
    TrainedExtractor,
    verified,
)
from diffusion_lab.evaluation.features.reference import Reference, cached_reference, load_reference


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


SHIPPED = Path(__file__).parents[1] / "weights"


def load_extractor(name: str = "mnist_v1") -> Extractor:
    """Load a fixed extractor.

    Args:
        name: one that is shipped, such as mnist_v1; a folder that scripts/train_extractor.py wrote;
            inception for the weights that torchvision has downloaded, or their file, <path>.pth.

    Raises:
        UserError: if there is none, or its file is not the one that its record was written for.

    """
    if name == INCEPTION or name.endswith(".pth"):
        from diffusion_lab.evaluation.features.inception import load_inception

        return load_inception(None if name == INCEPTION else Path(name))
    record_file = _record_file(name)
    folder = record_file.parent
    try:
        record = json.loads(record_file.read_text())
        weights = folder / f"{record['version']}.safetensors"
        channels, _, _ = record["image_shape"]
        network = Classifier(channels, record["num_classes"], record["num_features"])
        _ = record["data"]["dataset"], record["sha256"], record["reference_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{record_file} is damaged ({error!r}): {RESTORE}") from error
    try:
        network.load_state_dict(load(verified(weights, record["sha256"])))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{weights} holds no network of this kind: {RESTORE}") from error
    return TrainedExtractor(network, record, folder)


def shipped_versions() -> list[str]:
    """The names of the extractors that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob("*.json"))


def shipped_for(data: str) -> str | None:
    """The newest shipped extractor that was trained on a data set; None if there is none."""
    fitting = [
        name
        for name in shipped_versions()
        if json.loads((SHIPPED / f"{name}.json").read_text())["data"]["dataset"] == data
    ]
    return max(fitting, key=lambda name: (len(name), name), default=None)


def _record_file(name: str) -> Path:
    if name in shipped_versions():
        return SHIPPED / f"{name}.json"
    folder = Path(name).expanduser()
    try:
        found = sorted(folder.glob("*.json"))
    except OSError:
        found = []
    if len(found) != 1:
        reason = f"holds {len(found)} records, expected one" if found else "is no extractor"
        raise UserError(
            f"extractor={name} {reason}: choose from {', '.join(shipped_versions())}, "
            f"{INCEPTION}, or a folder that scripts/train_extractor.py made"
        )
    return found[0]

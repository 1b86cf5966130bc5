"""Find reference features beside the extractor's weights or in a cache, or compute them."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from diffusion_lab.data.folder import REFERENCES, may_write, user_cache
from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.split import first_indices
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import Extractor, TrainedExtractor
from diffusion_lab.evaluation.features.moments_file import read_moments, reference_of_moments
from diffusion_lab.evaluation.features.reference import (
    Reference,
    cache_key,
    cached_reference,
    load_reference,
    warn_of_no_cache,
)
from diffusion_lab.evaluation.metrics import Moments
from diffusion_lab.system.atomic import replacing

log = logging.getLogger(__name__)

NUM_TRAINING = 50_000
"""Largest number of training images in `training_moments`, as in papers."""


class Data(Protocol):
    """The part of ImageDataModule that references need."""

    data_dir: Path

    def image_set(self) -> ImageSet:
        """Return the whole data set."""


def reference_for(extractor: Extractor, data: str, read: Callable[[], Data]) -> Reference:
    """Return the reference features of the data set `data` for an extractor.

    An extractor that was trained on the data may have its reference beside its weights. Otherwise
    `read` returns the data module of the images, and the reference is computed and cached. Raises
    UserError if the extractor rejects such images.
    """
    if _has_reference(extractor, data):
        return load_reference(extractor)
    module = read()
    images = module.image_set()
    if _has_reference(extractor, data, images.sha256):
        return load_reference(extractor)
    return cached_reference(extractor, images, _cache_beside(module.data_dir))


def training_moments(extractor: Extractor, read: Callable[[], Data]) -> Reference:
    """Return the feature moments of the training images, with which papers compare samples.

    They are read from a cache, or computed and cached. At most NUM_TRAINING images are used, the
    first of their fixed order. Raises UserError if the extractor rejects such images.
    """
    module = read()
    images = module.image_set()
    count = min(NUM_TRAINING, len(images.train_labels))
    order = first_indices(len(images.train_labels), count, images.shuffled)
    name = f"{count:,} training images of {images.name}"
    key = cache_key(extractor, images, NUM_TRAINING)
    file = _cache_beside(module.data_dir) / f"{key}.train.npz"
    try:
        moments = read_moments(file, extractor).test_moments
    except UserError:  # not there, or damaged
        log.info("computing the moments of %s by extractor %s, once", name, extractor.name)
        moments = Moments.of(extractor(images.train_images[order]).values)
        try:
            with replacing(file) as part, part.open("wb") as opened:
                np.savez(opened, mu=moments.mean, sigma=moments.covariance)
        except OSError as error:
            warn_of_no_cache(file, error)
    return reference_of_moments(moments, name, extractor)


def _has_reference(extractor: Extractor, data: str, sha256: str | None = None) -> bool:
    """Return True if the reference of this data set is beside the extractor's weights."""
    if not isinstance(extractor, TrainedExtractor) or not extractor.reference_file.is_file():
        return False
    return extractor.trained_on(data, sha256)


def _cache_beside(data_dir: Path) -> Path:
    """Return the folder of cached references: in the data folder, or else in the user's cache.

    The user's cache is taken if the data folder cannot be written or holds other files of the user.
    """
    if may_write(data_dir) and os.access(_first_existing(data_dir), os.W_OK):
        return data_dir / REFERENCES
    return user_cache() / REFERENCES


def _first_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())

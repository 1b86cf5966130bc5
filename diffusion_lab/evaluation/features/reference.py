"""Reference features of real images, against which samples are scored."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.split import first_indices
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import (
    RESTORE,
    Extractor,
    Features,
    TrainedExtractor,
    verified,
)
from diffusion_lab.evaluation.metrics import Moments
from diffusion_lab.system.atomic import replacing

log = logging.getLogger(__name__)

FORMAT = 1
"""Format of the files; a cached reference of another format is computed again."""
NUM_IMAGES = 10_000


@dataclass(frozen=True)
class Reference:
    """Features of the real images of a data set, by one extractor.

    Features are rounded to half precision and probabilities to single precision, as in the file;
    the moments are computed before rounding. If only published moments are known, the features are
    empty, (0, F), and `test_moments` and `train_moments` both hold the published moments.
    """

    data: str
    """Name of the data set, such as mnist."""
    extractor: str
    extractor_sha256: str
    test: Features
    """Features of the test split, against which samples are scored."""
    test_labels: np.ndarray
    """int64 (N,)."""
    train: Features
    """Features of training images unseen by the extractor, for the real-data baseline."""
    train_labels: np.ndarray
    """int64 (N,)."""
    test_moments: Moments
    train_moments: Moments

    @property
    def has_features(self) -> bool:
        """False if only moments of the real images are known."""
        return len(self.test) > 0


def make_reference(
    extractor: Extractor,
    data: str,
    test: tuple[Tensor, Tensor],
    train: tuple[Tensor, Tensor],
) -> Reference:
    """Compute the features and moments of a data set's real images, to score samples against.

    Args:
        extractor: the feature extractor.
        data: name of the data set.
        test: images uint8 (N, C, H, W) and labels (N,) of the test split, N > 1.
        train: images and labels of training images that the extractor was not trained on, N > 1.

    Raises:
        UserError: if the extractor rejects such images, or a split has fewer than two images.

    """
    for split, (images, _) in {"test": test, "held-out training": train}.items():
        if len(images) < 2:
            raise UserError(
                f"{data} has {len(images)} {split} images: expected at least two test images and "
                "two held-out training images, for example by data.val_size=500"
            )
    tested, held_out = extractor(test[0]), extractor(train[0])
    return Reference(
        data,
        extractor.name,
        extractor.sha256,
        _rounded(tested),
        test[1].numpy().astype(np.int64),
        _rounded(held_out),
        train[1].numpy().astype(np.int64),
        Moments.of(tested.values),
        Moments.of(held_out.values),
    )


def load_reference(extractor: Extractor) -> Reference:
    """Read the reference beside an extractor's weights.

    Raises:
        UserError: if there is no reference, or its file does not match the extractor's record.

    """
    if not isinstance(extractor, TrainedExtractor) or not extractor.reference_file.is_file():
        raise UserError(
            f"extractor {extractor.name} comes with no reference: type data=<data set> for the "
            "real images, or reference=<file>.npz for the moments of their features"
        )
    file = extractor.reference_file
    verified(file, extractor.record["reference_sha256"])
    reference = _read(file)
    if reference.extractor_sha256 != extractor.sha256:
        raise UserError(
            f"{file} was computed by another network than extractor {extractor.name}: {RESTORE}"
        )
    return reference


def cached_reference(
    extractor: Extractor, images: ImageSet, cache_dir: Path | None, n: int = NUM_IMAGES
) -> Reference:
    """Return the reference for an extractor and a data set, from the cache if possible.

    The reference uses the first n images of the test split, and the first n of the training split
    in the fixed order of `split_order`, in which the validation images come first. For an extractor
    that was trained on this data set, only training images that it has not seen are used.

    Args:
        extractor: any feature extractor.
        images: the data set, both splits.
        cache_dir: folder of cached references, created if needed; None for no cache.
        n: largest number of images of each split.

    Raises:
        UserError: if the extractor rejects such images.

    """
    file = cache_dir and cache_dir / f"{cache_key(extractor, images, n)}.safetensors"
    if file is not None and file.exists():
        try:
            return _read(file)
        except UserError as error:
            log.warning("%s; computing the reference again", error)
    count = min(n, _unseen(extractor, images))
    order = first_indices(len(images.train_labels), count, images.shuffled)
    log.info("computing the reference of %s by extractor %s, once", images.name, extractor.name)
    reference = make_reference(
        extractor,
        images.name,
        (images.test_images[:n], images.test_labels[:n]),
        (images.train_images[order], images.train_labels[order]),
    )
    if file is not None:
        try:
            write_reference(reference, file)
        except OSError as error:
            warn_of_no_cache(file, error)
    return reference


def warn_of_no_cache(file: Path, error: OSError) -> None:
    """Log a warning that a reference cannot be cached in `file`."""
    log.warning(
        "the reference cannot be kept in %s (%s): it is computed again each time",
        file.parent,
        error.strerror,
    )


def _unseen(extractor: Extractor, images: ImageSet) -> int:
    """Count the images at the start of `split_order` that the extractor was not trained on."""
    trained = extractor.trained if isinstance(extractor, TrainedExtractor) else {}
    own = trained.get("sha256") == images.sha256
    return int(trained["num_val"]) if own else len(images.train_labels)


def cache_key(extractor: Extractor, images: ImageSet, n: int) -> str:
    """Return a hash (hex) of all inputs of a computed reference."""
    inputs: dict[str, Any] = {
        "format": FORMAT,
        "extractor": extractor.sha256,
        "resize_rule": extractor.resize_rule,
        "data": images.sha256,
        "image_shape": list(images.test_images.shape[1:]),
        "num_train": len(images.train_labels),
        "n": n,
    }
    if images.shuffled:
        inputs["shuffled"] = True
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def write_reference(reference: Reference, file: Path) -> None:
    """Write a reference atomically as a safetensors file."""
    arrays: dict[str, np.ndarray] = {}
    for split in ("test", "train"):
        features: Features = getattr(reference, split)
        moments: Moments = getattr(reference, f"{split}_moments")
        arrays |= {
            f"{split}.values": features.values.astype(np.float16),
            f"{split}.probabilities": features.probabilities.astype(np.float32),
            f"{split}.labels": _smallest(getattr(reference, f"{split}_labels")),
            f"{split}.mean": moments.mean,
            f"{split}.covariance": moments.covariance,
        }
    about: dict[str, Any] = {
        "format": FORMAT,
        "data": reference.data,
        "extractor": reference.extractor,
        "extractor_sha256": reference.extractor_sha256,
    }
    about["sha256"] = _digest(arrays, about)
    with replacing(file) as part:
        # a single entry, because safetensors writes several in random order
        part.write_bytes(save(arrays, {"about": json.dumps(about)}))


def _read(file: Path) -> Reference:
    """Read a file of `write_reference`; UserError if it is damaged."""
    try:
        with safe_open(file, "numpy") as opened:
            about = json.loads(opened.metadata()["about"])
            expected = about.pop("sha256")
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is damaged ({error}): expected reference features in safetensors format"
        ) from error
    if expected != _digest(arrays, about) or about["format"] != FORMAT:
        raise UserError(
            f"{file} is damaged or outdated: expected reference features, format {FORMAT}"
        )

    def features(split: str) -> Features:
        values, probabilities = arrays[f"{split}.values"], arrays[f"{split}.probabilities"]
        return Features(values.astype(np.float64), probabilities.astype(np.float64))

    def moments(split: str) -> Moments:
        return Moments(arrays[f"{split}.mean"], arrays[f"{split}.covariance"])

    return Reference(
        about["data"],
        about["extractor"],
        about["extractor_sha256"],
        features("test"),
        arrays["test.labels"].astype(np.int64),
        features("train"),
        arrays["train.labels"].astype(np.int64),
        moments("test"),
        moments("train"),
    )


def _digest(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _smallest(labels: np.ndarray) -> np.ndarray:
    """Convert labels to uint8 if all fit, else to int32."""
    return labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.int32)


def _rounded(features: Features) -> Features:
    # so that a computed reference equals the one read from its file
    halves, singles = features.values.astype(np.float16), features.probabilities.astype(np.float32)
    return Features(halves.astype(np.float64), singles.astype(np.float64))

"""Read published moments of real images from npz files with mu and sigma, EDM's format."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import Extractor, Features
from diffusion_lab.evaluation.features.reference import Reference
from diffusion_lab.evaluation.metrics import Array, Moments

_EXPECTED = "expected an npz with mu (F,) and sigma (F, F), the mean and covariance of features"


def read_moments(file: str | Path, extractor: Extractor) -> Reference:
    """Read the moments of real images' features as a reference that has no features.

    Nothing is unpickled. The file does not record the extractor that it was computed with, so only
    the number of features can be checked.

    Args:
        file: npz with mu (F,) and sigma (F, F); other arrays in it are not read.
        extractor: extractor of the samples' features.

    Raises:
        UserError: if the file cannot be read, or its arrays are not moments of the extractor's
            number of features.

    """
    path, setting = Path(file).expanduser(), f"reference={file}"
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as npz:
            mean, covariance = (np.asarray(npz[name]) for name in ("mu", "sigma"))
    except KeyError as error:
        raise UserError(
            f"{setting} has no array {error.args[0].split()[0]}: {_EXPECTED}"
        ) from error
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"{setting} cannot be read ({reason}): {_EXPECTED}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    moments = _checked(mean, covariance, setting, extractor)
    return reference_of_moments(moments, f"{path.name} (sha256 {sha256[:8]})", extractor)


def reference_of_moments(moments: Moments, name: str, extractor: Extractor) -> Reference:
    """Return a Reference called `name` that has moments but no features."""
    empty = Features(np.empty((0, len(moments.mean))), np.empty((0, extractor.num_classes)))
    none = np.empty(0, dtype=np.int64)
    return Reference(
        data=name,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        test=empty,
        test_labels=none,
        train=empty,
        train_labels=none,
        test_moments=moments,
        train_moments=moments,
    )


def _checked(
    mean: np.ndarray, covariance: np.ndarray, setting: str, extractor: Extractor
) -> Moments:
    for name, array in (("mu", mean), ("sigma", covariance)):
        if array.dtype.kind not in "fiu":
            raise UserError(f"{setting}: {name} holds {array.dtype}, expected numbers")
    size = extractor.num_features
    if mean.shape != (size,) or covariance.shape != (size, size):
        raise UserError(
            f"{setting} holds mu {mean.shape} and sigma {covariance.shape}: expected ({size},) and "
            f"({size}, {size}) for extractor {extractor.name}"
        )
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(
            f"{setting}: mu or sigma is not finite: expected finite numbers; copy the file again"
        )
    if not _is_covariance(covariance):
        raise UserError(
            f"{setting}: sigma is no covariance: expected a symmetric matrix with a diagonal >= 0"
        )
    return Moments(mean, covariance)


def _is_covariance(matrix: Array) -> bool:
    """Return True if a matrix is symmetric up to float32 rounding, with a diagonal >= 0."""
    scale = np.abs(matrix).max(initial=0.0)
    symmetric = np.abs(matrix - matrix.T).max(initial=0.0) <= 1e-5 * scale
    return bool(symmetric and (np.diag(matrix) >= 0).all())

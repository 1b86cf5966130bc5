"""Pseudo-labels: balanced k-means clusters of similar images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.errors import UserError

_ROUNDS = 30
_ENOUGH = 20_000
"""Number of images, from the first on, that the centres are fitted to: 1 s instead of 10 s."""


class Clusters:
    """K-means clusters of about equal size.

    An image belongs to the centre with the smallest squared distance plus offset; the offset of a
    centre grows while its cluster is too large. Because clusters have equal size, sampling them
    uniformly matches the data distribution. A network that gets clusters as classes is therefore an
    unconditional model that supports guidance (Hu et al. 2023, arXiv 2210.06462, use clusters of a
    network's features).

    Args:
        images: uint8 or real numbers, (N, C, H, W).
        count: number of clusters, at least 2.

    Raises:
        UserError: for a count below 2, or fewer than two images per cluster.

    """

    def __init__(self, images: Tensor, count: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 2:
            raise UserError(f"data.clusters={count}: expected a whole number, at least 2")
        if len(images) < 2 * count:
            raise UserError(
                f"data.clusters={count}: {len(images)} training images are fewer than two per "
                f"cluster; type at most data.clusters={len(images) // 2}"
            )
        from sklearn.cluster import MiniBatchKMeans  # takes a second to import

        x = _coarse(images)
        few = x[:_ENOUGH]
        means = MiniBatchKMeans(count, random_state=0, n_init=1, batch_size=4096).fit(few.numpy())
        self._centres = torch.from_numpy(means.cluster_centers_).to(x)
        self._offsets = torch.zeros(count)
        size = 0.1 * (self._distances(few).amin(1) + few.square().sum(1)).mean()
        for i in range(_ROUNDS):
            labels = self._shift_offsets(self._distances(few), size * 0.97**i)
            sums = torch.zeros_like(self._centres).index_add_(0, labels, few)
            counts = torch.bincount(labels, minlength=count)[:, None]
            self._centres = torch.where(counts > 0, sums / counts.clamp(min=1), self._centres)
        distances = self._distances(x)
        for i in range(2 * _ROUNDS):  # the centres stay fixed while the offsets converge
            self._shift_offsets(distances, size * 0.97 ** (_ROUNDS + i))

    def _shift_offsets(self, distances: Tensor, size: Tensor) -> Tensor:
        """Raise the offsets of too large clusters and lower those of too small ones.

        An offset changes by at most `size`. Returns the cluster of each image (N,) before the
        change. The distances to the centres are (N, count).
        """
        labels = (distances + self._offsets).argmin(1)
        counts = torch.bincount(labels, minlength=len(self._offsets))
        self._offsets += size * (counts * len(counts) / len(labels) - 1).clamp(-1, 1)
        return labels

    def __call__(self, images: Tensor) -> Tensor:
        """Assign images (N, C, H, W) to clusters: int64 (N,) in 0..count - 1."""
        return (self._distances(_coarse(images)) + self._offsets).argmin(1)

    def _distances(self, x: Tensor) -> Tensor:
        """Squared distances to the centres, without the |x|^2 term: (N, D) -> (N, count)."""
        return self._centres.square().sum(1) - 2 * x @ self._centres.T


def _coarse(images: Tensor) -> Tensor:
    """Average 2 x 2 pixels, if there are as many, and flatten: (N, C, H, W) -> (N, D)."""
    values = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return (F.avg_pool2d(values, 2) if min(values.shape[2:]) > 1 else values).flatten(1)

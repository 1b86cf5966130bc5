"""Stand-ins for labels: groups of images that look alike, found without any label."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.errors import UserError

_ROUNDS = 30
_ENOUGH = 20_000
"""Images that the centres are found with, the first of more: a second, not ten."""


class Clusters:
    """K-means clusters that hold about equally many of the images they were made of.

    An image belongs to the centre with the least squared distance + offset of the centre; offsets
    rise where a cluster is too full. Drawing every cluster equally often is then drawing from the
    data, and a network that is given the clusters as its classes stays an unconditional model, with
    guidance (Hu et al. 2023, arXiv 2210.06462, do so with clusters of a network's features).

    Args:
        images: uint8 (N, C, H, W).
        count: of the clusters, 2 or more.

    Raises:
        UserError: for a smaller count, or fewer than two images for each.

    """

    def __init__(self, images: Tensor, count: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 2:
            raise UserError(f"data.clusters={count}: expected a whole number, at least 2")
        if len(images) < 2 * count:
            raise UserError(
                f"data.clusters={count}: {len(images)} training images are fewer than two for "
                f"each, expected at most data.clusters={len(images) // 2}"
            )
        from sklearn.cluster import MiniBatchKMeans  # a second that other runs need not wait for

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
        for i in range(2 * _ROUNDS):  # the centres rest, and the offsets settle
            self._shift_offsets(distances, size * 0.97 ** (_ROUNDS + i))

    def _shift_offsets(self, distances: Tensor, size: Tensor) -> Tensor:
        """One round against clusters that are too full; the clusters (N,) of before."""
        labels = (distances + self._offsets).argmin(1)
        counts = torch.bincount(labels, minlength=len(self._offsets))
        self._offsets += size * (counts * len(counts) / len(labels) - 1).clamp(-1, 1)
        return labels

    def __call__(self, images: Tensor) -> Tensor:
        """The cluster of each of uint8 (N, C, H, W): int64 (N,) from 0 to below the count."""
        return (self._distances(_coarse(images)) + self._offsets).argmin(1)

    def _distances(self, x: Tensor) -> Tensor:
        """Squared, less each image's own square: (N, D) -> (N, count)."""
        return self._centres.square().sum(1) - 2 * x @ self._centres.T


def _coarse(images: Tensor) -> Tensor:
    """Means of 2 x 2 pixels as vectors: (N, C, H, W) -> (N, D)."""
    return F.avg_pool2d(images.float() / 255, 2).flatten(1)

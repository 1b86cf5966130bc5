"""Pairings of the noise and the images of a batch: random, or by optimal transport."""

from torch import Tensor


def independent(x0: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the noise unchanged, so that pairs are random. (B, C, H, W) -> (B, C, H, W)."""
    return noise


def optimal_transport(x0: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
    """Reorder the noise so that the sum of squared distances to the images x0 is smallest.

    Minibatch optimal transport: Tong et al. 2023 (arXiv 2302.00482), section 3.2. The optimal plan
    for a batch is a permutation of the noise. With labels (B,), noise is exchanged only between
    images of the same class. Otherwise bright classes would get the brighter noise, although a
    sampler begins every class from the same distribution of noise. (B, C, H, W) -> (B, C, H, W).
    """
    import torch
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(x0.flatten(1).float(), noise.flatten(1).float()) ** 2
    if labels is not None:
        cost.masked_fill_(labels[:, None] != labels, torch.inf)
    _, columns = linear_sum_assignment(cost.cpu().numpy())
    return noise[torch.as_tensor(columns, device=noise.device)]

"""Which noise is paired with which image of a batch."""

from torch import Tensor


def independent(x0: Tensor, noise: Tensor) -> Tensor:
    """The noise as it was drawn. (B, C, H, W) -> (B, C, H, W)."""
    return noise


def optimal_transport(x0: Tensor, noise: Tensor) -> Tensor:
    """The noise in the order that makes the summed squared distances to x0 least.

    Minibatch optimal transport: Tong et al. 2023 (arXiv 2302.00482), section 3.2, the exact plan of
    a batch being a permutation. (B, C, H, W) -> (B, C, H, W).
    """
    import torch
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(x0.flatten(1).float(), noise.flatten(1).float()) ** 2
    _, columns = linear_sum_assignment(cost.cpu().numpy())
    return noise[torch.as_tensor(columns, device=noise.device)]

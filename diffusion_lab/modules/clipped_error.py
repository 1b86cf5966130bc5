"""Squared error on the target that tolerates x0 estimates beyond black and white.

Such estimates do no harm if samples are clipped to the value range afterwards.
"""

from torch import Tensor

from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion.prediction import Prediction

MARGIN = 0.05
"""Fraction of the value range, larger than the noise that one evaluation leaves on black."""


def clipped_error(
    output: Tensor,
    x0: Tensor,
    noise: Tensor,
    x_t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    prediction: Prediction,
    value_range: ValueRange,
) -> Tensor:
    """Mean squared error on the target per image, without penalty beyond black and white.

    For the target, black pixels of x0 are made darker and white pixels brighter, by MARGIN of the
    value range. A black pixel whose x0 estimate is still darker, and a white pixel whose estimate
    is still brighter, have error 0, because the estimate is clipped to black or white afterwards.
    The output and the images are (B, C, H, W), alpha and sigma (B,). -> (B,).
    """
    low, high = value_range.low, value_range.high
    margin = MARGIN * (high - low)
    black, white = x0 <= low, x0 >= high
    safe = x0 - margin * black + margin * white
    target = prediction.target(safe, noise, alpha, sigma)
    clean, goal = (
        prediction.to_clean(each, x_t, alpha, sigma) for each in (output.detach(), target)
    )
    beyond = black & (clean < goal) | white & (clean > goal)
    return (output - target).masked_fill(beyond, 0).square().flatten(1).mean(1)

"""Small residual network for colour images, whose last hidden layer gives the features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_lab.evaluation.features.classifier import FeatureNetwork, convolution

WIDTHS = (64, 128)
"""Channels of the first stages; the last stage has as many as there are features."""
MIN_SIDE = 16
_SIDE = 32
"""Approximate shorter side, in pixels, of the feature maps after the stem."""
_COMPONENTS = 12
SAMPLE = 500
"""Number of images, of about a thousand patches each, from which `whiten` computes the stem."""


class ResNet(FeatureNetwork):
    """Residual classifier of images of any size from 16 x 16.

    The stem projects overlapping patches onto their whitened principal components, with both signs,
    as in Jordan 2024, arXiv 2404.00498, section 3.1. The stem is not trained: `whiten` computes it
    from images. Each of three stages convolves, halves the image and ends in a residual block of
    one convolution (He et al. 2015, arXiv 1512.03385). The features are the maxima of the last
    stage over all pixels, and at least 0.

    Args:
        channels: channels of the images.
        num_classes: number of classes.
        num_features: number of features before the last linear layer.
        stride: stride of the stem, see `stride_for`.

    """

    def __init__(
        self, channels: int = 3, num_classes: int = 10, num_features: int = 192, stride: int = 1
    ) -> None:
        side = stride + 1
        components = min(_COMPONENTS, channels * side**2)
        stem = nn.Conv2d(channels, 2 * components, side, stride, bias=False)
        stem.weight.requires_grad_(False)
        stages: list[nn.Module] = []
        inputs = 2 * components
        for width in (*WIDTHS, num_features):
            stages.append(_Stage(inputs, width))
            inputs = width
        body = nn.Sequential(
            stem, nn.ReLU(inplace=True), *stages, nn.AdaptiveMaxPool2d(1), nn.Flatten()
        )
        super().__init__(body, num_features, num_classes)

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Compute the stem's filters from a sample of 500 or more images (N, C, H, W) in [0, 1]."""
        stem = self.body[0]
        assert isinstance(stem, nn.Conv2d)
        (side, _), (stride, _) = stem.kernel_size, stem.stride
        patches = F.unfold(images * 2 - 1, side, stride=stride)
        variances, directions = torch.linalg.eigh(torch.cov(patches.movedim(1, 0).flatten(1)))
        # a floor of the variance, so that the noise of flat images is not blown up
        filters = (directions / (variances + 5e-4).sqrt()).T.flip(0)[: stem.out_channels // 2]
        filters = filters.reshape(-1, *stem.weight.shape[1:])
        stem.weight.copy_(torch.cat([filters, -filters]))


class _Stage(nn.Module):
    """Convolution that halves the image, followed by a residual block of one convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.residual = convolution(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(F.max_pool2d(self.enter(x), 2)))
        return x + self.residual(x)


def stride_for(height: int, width: int) -> int:
    """Return a stride of the stem for which the shorter side of its output is about 32."""
    return max(1, round(min(height, width) / _SIDE))

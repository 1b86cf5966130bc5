"""Small classifiers whose last hidden layer gives the features for scoring images."""

from torch import Tensor, nn


class FeatureNetwork(nn.Module):
    """A body that maps images to features, and a linear layer that maps features to logits.

    Args:
        body: maps images (N, C, H, W) in [-1, 1] to features (N, num_features).
        num_features: number of features.
        num_classes: number of classes.

    """

    def __init__(self, body: nn.Sequential, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_features, self.num_classes = num_features, num_classes
        self.body = body
        self.head = nn.Linear(num_features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (N, num_features) of images (N, C, H, W) in [0, 1]."""
        # centred at zero, the initial running mean of batch normalisation
        return self.body(x * 2 - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of images (N, C, H, W) in [0, 1]."""
        return self.head(self.features(x))


MIN_SIDE = 9
"""Least height and width of images that a Classifier takes."""


class Classifier(FeatureNetwork):
    """Convolutional classifier for small gray images such as digits, with 120,000 parameters.

    The network has five convolutions, each with batch normalisation and ReLU; two of them halve the
    image. The features are the outputs of the last convolution averaged over all pixels, so they
    are at least 0, and images of any size from 9 x 9 are accepted.

    Args:
        channels: channels of the images.
        num_classes: number of classes.
        num_features: number of features before the last linear layer.

    """

    def __init__(self, channels: int = 1, num_classes: int = 10, num_features: int = 64) -> None:
        body = nn.Sequential(
            convolution(channels, 24, kernel_size=5, stride=2),
            convolution(24, 32),
            convolution(32, 64, stride=2),
            convolution(64, 80),
            convolution(80, num_features, padding=0),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        super().__init__(body, num_features, num_classes)


def convolution(
    inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1, padding: int | None = None
) -> nn.Sequential:
    """Return a convolution with batch normalisation and ReLU; padding=None keeps the size."""
    padding = kernel_size // 2 if padding is None else padding
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )

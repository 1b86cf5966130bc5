"""Inception v3 of ImageNet, an optional extractor for data without a trained one.

The weights are torchvision's, not those of the TensorFlow graph behind published FIDs: scores are
comparable with one another only.
"""

import hashlib
import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import Inception_V3_Weights, inception_v3

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import INCEPTION, Extractor

SIDE = 299
NUM_FEATURES = 2048


class InceptionExtractor(Extractor):
    """Extractor of the 2048 features before Inception's last layer, for images of any size.

    Gray images are repeated to three channels. Images are resized to 299 x 299 (bilinear,
    antialiased). ImageNet's classes are not those of the data, so probabilities are (N, 0).

    Args:
        network: Inception v3 without its last layer.
        sha256: SHA-256 (hex) of the weights' file.

    """

    batch_size = 32  # 299 x 299 takes memory
    resize_rule = "repeat gray, bilinear antialias to 299"

    def __init__(self, network: nn.Module, sha256: str) -> None:
        network.eval().requires_grad_(False)

        def features_and_probabilities(x: Tensor) -> tuple[Tensor, Tensor]:
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
            return network(x.expand(-1, 3, -1, -1) * 2 - 1), x.new_empty(len(x), 0)

        super().__init__(
            features_and_probabilities, INCEPTION, sha256, NUM_FEATURES, 0, (3, SIDE, SIDE)
        )

    def fit(self, images: Tensor) -> Tensor:
        if images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            raise UserError(
                f"the images have shape {tuple(images.shape[1:])}: extractor {INCEPTION} takes "
                "gray (1 channel) or colour images (3 channels)"
            )
        return images


def load_inception(file: Path | None = None) -> InceptionExtractor:
    """Load torchvision's Inception v3; never downloads.

    Args:
        file: file of the weights; None for the file in torchvision's download folder.

    Raises:
        UserError: if the file is missing, damaged or of another network.

    """
    url = Inception_V3_Weights.IMAGENET1K_V1.url
    file = Path(torch.hub.get_dir(), "checkpoints", Path(url).name) if file is None else file
    file = file.expanduser()
    try:
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"extractor {INCEPTION} needs its weights in {file} ({error.strerror}): put {url} "
            "there, give its path, extractor=<path>.pth, or use extractor=mnist_v1"
        ) from error
    # the names of torchvision's files end with the beginning of their hash
    if file.name == Path(url).name and not sha256.startswith(file.stem.rpartition("-")[2]):
        raise UserError(f"{file} is damaged (sha256 {sha256[:8]}...): download it again from {url}")
    network = inception_v3(weights=None, init_weights=False, transform_input=False)
    try:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (RuntimeError, TypeError, AttributeError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"{file} holds no weights of torchvision's inception_v3") from error
    network.fc = nn.Identity()
    return InceptionExtractor(network, sha256)

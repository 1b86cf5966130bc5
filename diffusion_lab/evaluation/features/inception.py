"""Inception v3 with the weights behind published FIDs, ported from TensorFlow's graph of 2015.

The network is torchvision's, changed where TensorFlow's graph differs, so no further package is
needed. The package torch-fidelity has the same network, but loads its weights by unpickling.
"""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.inception import Inception3, InceptionE

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import INCEPTION, Extractor

SIDE = 299
NUM_FEATURES = 2048
NUM_CLASSES = 1008
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
"""Names of the weights' file as downloaded by pytorch-fid and by torch-fidelity."""
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILES[0]}"


class InceptionExtractor(Extractor):
    """Extractor of the 2048 features of published FIDs, for images of any size.

    Gray images are repeated to three channels. The classes of the network are not those of the
    data, so probabilities are (N, 0).

    Args:
        network: from `fid_inception`.
        sha256: SHA-256 (hex) of the weights' file.
        device: device of the network.

    """

    batch_size = 32  # 299 x 299 takes memory
    resize_rule = "repeat gray, TensorFlow 1's bilinear to 299"

    def __init__(self, network: nn.Module, sha256: str, device: torch.device | str = "cpu") -> None:
        network.eval().requires_grad_(False).to(device)

        def features_and_probabilities(x: Tensor) -> tuple[Tensor, Tensor]:
            pixels = (x.to(device) * 255).round().expand(-1, 3, -1, -1)
            values = network((resized_like_tensorflow(pixels, SIDE) - 128) / 128)
            return values.cpu(), torch.empty(len(x), 0)

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


def load_inception(
    file: Path | None = None, device: torch.device | str = "cpu"
) -> InceptionExtractor:
    """Load Inception with the weights behind published FIDs, without downloading them.

    Args:
        file: the file of the weights, as pytorch-fid and torch-fidelity download it; None to look
            for it in torch's download folder, under the file name of either package.
        device: device of the network.

    Raises:
        UserError: if the file is missing, or is not exactly the published one.

    """
    downloads = Path(torch.hub.get_dir(), "checkpoints")
    found = [downloads / name for name in FILES if (downloads / name).is_file()]
    path = (found or [downloads / FILES[0]])[0] if file is None else file.expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"extractor={INCEPTION} needs its weights in {path} ({error.strerror}): download "
            f"{URL} to this path, or type extractor=<folder>/{FILES[0]}"
        ) from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != SHA256:
        raise UserError(
            f"{path} does not hold the weights of published FIDs: its sha256 begins with "
            f"{sha256[:8]}, expected {SHA256[:8]}: download it again from {URL}"
        )
    network = fid_inception()
    try:
        network.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    except (RuntimeError, TypeError, AttributeError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(
            f"{path} cannot be loaded ({type(error).__name__}): check the versions of torch and "
            "torchvision"
        ) from error
    network.fc = nn.Identity()
    return InceptionExtractor(network, sha256, device)


def fid_inception() -> Inception3:
    """Build TensorFlow's Inception graph of 2015-12-05 with random weights.

    Maps (B, 3, 299, 299) in [-1, 1] to logits (B, 1008). Parameters have torchvision's names.
    """
    network = Inception3(num_classes=NUM_CLASSES, aux_logits=False, init_weights=False)
    network.Mixed_7c = _MaxPooled(2048)
    for block in network.modules():
        if hasattr(block, "branch_pool") and not isinstance(block, _MaxPooled):
            block.branch_pool.register_forward_pre_hook(_mean_inside)
    return network


class _MaxPooled(InceptionE):
    """The last block, whose pooling is a maximum in TensorFlow's graph, not a mean."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(F.max_pool2d(x, kernel_size=3, stride=1, padding=1))]


def _mean_inside(module: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    """Correct a zero-padded 3 x 3 mean, so that it averages only the pixels within the image."""
    (x,) = inputs
    inside = F.avg_pool2d(torch.ones_like(x[:1, :1]), kernel_size=3, stride=1, padding=1)
    return x / inside


def resized_like_tensorflow(x: Tensor, side: int) -> Tensor:
    """Resize (B, C, H, W) to side x side as TensorFlow 1's resize_bilinear does.

    Output pixel i of n is interpolated at the input position i H / n, as TensorFlow 1 ignores that
    pixels have their centres at + 0.5. There is no antialiasing.
    """
    for dim in (3, 2):
        size = x.shape[dim]
        position = torch.arange(side, device=x.device) * torch.tensor(size / side, device=x.device)
        low = position.long()
        high = (low + 1).clamp(max=size - 1)
        share = (position - low).reshape(-1, *[1] * (3 - dim))
        before, after = x.index_select(dim, low), x.index_select(dim, high)
        x = before + (after - before) * share
    return x

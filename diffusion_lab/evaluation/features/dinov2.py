"""DINOv2 ViT-L/14 with its published weights, for FD-DINOv2 (Stein et al. 2023, arXiv 2306.04675).

The network is built from torch's layers. The package transformers has the same network, but it
interpolates the position embeddings at slightly different positions than the code behind published
figures.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import DINOV2, Extractor

SIDE, PATCH = 224, 14
NUM_FEATURES = 1024
REPOSITORY, FILE = "facebook/dinov2-large", "model.safetensors"
SHA256 = "399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's channels in [0, 1]; DINOv2's input is normalised."""


class DINOv2Extractor(Extractor):
    """Extractor of the 1024 features of FD-DINOv2, for images of any size.

    Images are resized to 224 x 224 by Pillow's bicubic filter, as in dgm-eval, the code of Stein et
    al. Gray images are repeated to three channels. The network has no classes, so probabilities are
    (N, 0).

    Args:
        network: maps normalised images (B, 3, SIDE, SIDE) to features (B, NUM_FEATURES).
        sha256: SHA-256 (hex) of the weights' file.
        device: device of the network.

    """

    batch_size = 32
    resize_rule = "repeat gray, Pillow's bicubic to 224"

    def __init__(self, network: nn.Module, sha256: str, device: torch.device | str = "cpu") -> None:
        network.eval().requires_grad_(False).to(device)
        mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (MEAN, STD))

        def features_and_probabilities(x: Tensor) -> tuple[Tensor, Tensor]:
            pixels = (x * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
            normalised = (resized_by_pillow(pixels, SIDE) / 255 - mean) / std
            return network(normalised.to(device)).cpu(), torch.empty(len(x), 0)

        super().__init__(
            features_and_probabilities, DINOV2, sha256, NUM_FEATURES, 0, (3, SIDE, SIDE)
        )

    def fit(self, images: Tensor) -> Tensor:
        if images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            raise UserError(
                f"the images have shape {tuple(images.shape[1:])}: extractor {DINOV2} takes "
                "gray (1 channel) or colour images (3 channels)"
            )
        return images


class VisionTransformer(nn.Module):
    """Vision transformer of DINOv2, which returns the normalised class token of the last layer.

    Oquab et al. 2023 (arXiv 2304.07193). LayerScale is not a layer here: `weights_of` multiplies
    its factors into the weights of the linear layer before it. `trained_side` is the number of
    patches along each side of the images in training.
    """

    def __init__(
        self, width: int = NUM_FEATURES, depth: int = 24, heads: int = 16, trained_side: int = 37
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + trained_side**2, width))
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            4 * width,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(width, eps=1e-6)
        self.encoder = nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W), whose sides PATCH divides, to (B, width)."""
        tokens = self.patches(x)  # (B, width, H / PATCH, W / PATCH)
        positions = self.interpolated_positions(*tokens.shape[2:])
        first = self.class_token.expand(len(x), -1, -1)
        tokens = torch.cat([first, tokens.flatten(2).mT], dim=1) + positions
        encoded: Tensor = self.encoder(tokens)
        return encoded[:, 0]

    def interpolated_positions(self, rows: int, columns: int) -> Tensor:
        """Interpolate the position embeddings to a grid, (1, 1 + rows * columns, width).

        The published code adds 0.1 to the numbers of rows and columns, which slightly moves the
        positions of the interpolation.
        """
        side = round((self.positions.shape[1] - 1) ** 0.5)
        if (rows, columns) == (side, side):
            return self.positions
        grid = self.positions[:, 1:].mT.unflatten(2, (side, side))
        scale = ((rows + 0.1) / side, (columns + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([self.positions[:, :1], grid.flatten(2).mT], dim=1)


def load_dinov2(file: Path | None = None, device: torch.device | str = "cpu") -> DINOv2Extractor:
    """Load DINOv2 ViT-L/14 from the file of its published weights; nothing is downloaded.

    Args:
        file: the file model.safetensors of facebook/dinov2-large; None to look for this file in the
            local cache of the Hugging Face Hub.
        device: device of the network.

    Raises:
        UserError: if the file is missing, or is not exactly the published one.

    """
    remedy = f"type hf download {REPOSITORY} {FILE} (1.2 GB), or give the path of that file"
    path = _in_cache() if file is None else file.expanduser()
    if path is None:
        raise UserError(f"extractor={DINOV2} needs its weights: {remedy}")
    try:
        with path.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"extractor={DINOV2} cannot read {path} ({error.strerror}): {remedy}"
        ) from error
    if sha256 != SHA256:
        raise UserError(
            f"{path} does not hold the published weights of DINOv2 ViT-L/14: its sha256 begins "
            f"with {sha256[:8]}, expected {SHA256[:8]}: {remedy}"
        )
    try:
        weights = weights_of(load_file(path))
        with torch.device("meta"):  # 300 million weights need no initial values
            network = VisionTransformer()
        network.load_state_dict(weights, assign=True)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} cannot be loaded ({type(error).__name__})") from error
    return DINOv2Extractor(network, sha256, device)


def _in_cache() -> Path | None:
    found = try_to_load_from_cache(REPOSITORY, FILE)
    return Path(found) if isinstance(found, str) else None


def weights_of(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the tensors of the published file, by name, to a VisionTransformer's state_dict."""
    weights = {
        "class_token": published["embeddings.cls_token"],
        "positions": published["embeddings.position_embeddings"],
        "patches.weight": published["embeddings.patch_embeddings.projection.weight"],
        "patches.bias": published["embeddings.patch_embeddings.projection.bias"],
        "encoder.norm.weight": published["layernorm.weight"],
        "encoder.norm.bias": published["layernorm.bias"],
    }
    depth = sum(name.endswith(".norm1.weight") for name in published)
    for k in range(depth):
        theirs, ours = f"encoder.layer.{k}", f"encoder.layers.{k}"
        attention, mlp = (published[f"{theirs}.layer_scale{n}.lambda1"] for n in (1, 2))
        for part in ("weight", "bias"):
            projections = [
                published[f"{theirs}.attention.attention.{name}.{part}"]
                for name in ("query", "key", "value")
            ]
            out = published[f"{theirs}.attention.output.dense.{part}"]
            second = published[f"{theirs}.mlp.fc2.{part}"]
            weights |= {
                f"{ours}.self_attn.in_proj_{part}": torch.cat(projections),
                f"{ours}.self_attn.out_proj.{part}": _rows_times(attention, out),
                f"{ours}.linear1.{part}": published[f"{theirs}.mlp.fc1.{part}"],
                f"{ours}.linear2.{part}": _rows_times(mlp, second),
                f"{ours}.norm1.{part}": published[f"{theirs}.norm1.{part}"],
                f"{ours}.norm2.{part}": published[f"{theirs}.norm2.{part}"],
            }
    return weights


def _rows_times(factor: Tensor, layer: Tensor) -> Tensor:
    """Multiply the rows of a weight (N, M) or the elements of a bias (N,) by a factor (N,)."""
    return layer * factor.reshape(-1, *[1] * (layer.ndim - 1))


def resized_by_pillow(pixels: Tensor, side: int) -> Tensor:
    """Resize uint8 (B, 3, H, W) to float32 (B, 3, side, side) of whole numbers from 0 to 255."""
    images = [Image.fromarray(each) for each in pixels.movedim(1, 3).contiguous().numpy()]
    resized = [np.asarray(i.resize((side, side), Image.Resampling.BICUBIC)) for i in images]
    return torch.from_numpy(np.stack(resized)).movedim(3, 1).float()

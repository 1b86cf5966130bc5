"""A residual MLP for points: a point of C coordinates is an image of C channels and one pixel."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from diffusion_lab.errors import UserError
from diffusion_lab.networks.image_size import height_and_width
from diffusion_lab.networks.layers import ConditionEmbedding, zeroed


class ResidualLayers(nn.Module):
    """Residual block of two linear layers; the embedding scales and shifts between them.

    The block has no normalisation, because that would remove the distance of a point from
    the origin.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)
        self.first = nn.Linear(width, width)
        # starts at zero, so that the block is initially the identity
        self.second = zeroed(nn.Linear(width, width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Map h (B, width) and embedding (B, width) to (B, width)."""
        scale, shift = self.modulation(embedding).chunk(2, dim=-1)
        return h + self.second(F.silu(self.first(h) * (1 + scale) + shift))


class MLP(ModelMixin, ConfigMixin):
    """Residual MLP whose input is all numbers of a point or of a small image.

    The network has `depth` blocks of `width` channels. Its input also contains the sine and cosine
    of each number at `frequencies` frequencies, with periods 4, 2, 1 and so on, because an MLP
    learns sharp edges slowly (Tancik et al. 2020, arXiv 2006.10739). With `use_time=False` the time
    is replaced by 0. With `num_classes` a class embedding is added to the time embedding. All
    layers support forward-mode derivatives (torch.func.jvp).
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 2,
        image_size: int | Sequence[int] = 1,
        use_time: bool = True,
        width: int = 128,
        depth: int = 3,
        frequencies: int = 3,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if min(width, depth) < 1 or frequencies < 0:
            raise UserError(
                f"network.width={width}, network.depth={depth}, network.frequencies={frequencies}: "
                "expected width and depth above 0 and frequencies of at least 0"
            )
        numbers = in_channels * math.prod(height_and_width(image_size))
        self.use_time = use_time
        self.embedding_channels = width
        self.embed = ConditionEmbedding(width, num_classes)
        self.frequencies = frequencies
        self.first = nn.Linear(numbers * (1 + 2 * frequencies), width)
        self.blocks = nn.ModuleList(ResidualLayers(width) for _ in range(depth))
        self.out = zeroed(nn.Linear(width, numbers))

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        labels: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Map (B, C, H, W), time (B,) in [0, 1000] and labels (B,) to (B, C, H, W).

        `condition` (B, embedding_channels) is added to the embedding of time and class.
        """
        if not self.use_time:
            time = torch.zeros_like(time)
        embedding = F.silu(self.embed(time, labels, condition))
        h = self.first(self.features(x.flatten(1)))
        for block in self.blocks:
            h = block(h, embedding)
        return self.out(F.silu(h)).unflatten(1, x.shape[1:])

    def features(self, x: Tensor) -> Tensor:
        """Append sines and cosines at K = `frequencies` frequencies: (B, N) -> (B, N (1 + 2 K))."""
        octaves = torch.arange(self.frequencies, device=x.device, dtype=x.dtype)
        angles = (x[..., None] * (math.pi / 2 * 2**octaves)).flatten(1)
        return torch.cat([x, angles.sin(), angles.cos()], dim=1)

"""A small U-Net, fast on a CPU: all layers work at half resolution or below."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from diffusion_lab.errors import UserError
from diffusion_lab.networks.image_size import check_divisible
from diffusion_lab.networks.layers import zeroed


class ResidualBlock(nn.Module):
    """Residual block of two 3x3 convolutions; the time embedding scales and shifts between them."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(1, out_channels, affine=False)
        self.modulation = nn.Linear(time_channels, 2 * out_channels)
        # starts at zero, so that the block is initially the identity
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map x (B, C_in, H, W) and embedding (B, time_channels) to (B, C_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.shortcut(x) + h


class FastUNet(ModelMixin, ConfigMixin):
    """Small U-Net with residual blocks at 1/2 and 1/4 of the image size.

    Pixel-unshuffle and pixel-shuffle convert between the full and half size. Each stage has `depth`
    blocks, with `width` channels at half size and 2 `width` channels at a quarter of the size. With
    `num_classes` a class embedding is added to the time embedding. With `use_time=False` the time
    is replaced by 0, so that the same layers have no time conditioning.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | Sequence[int] = 28,
        use_time: bool = True,
        width: int = 32,
        depth: int = 2,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        check_divisible(image_size, 4, "FastUNet halves the image twice")
        if width % 2 or width < 2 or depth < 1:
            raise UserError(
                f"network.width={width}, network.depth={depth}: expected an even width of at "
                "least 2 and a depth of at least 1"
            )
        self.use_time = use_time
        self.time_features = 2 * width
        self.embedding_channels = time = 4 * width
        self.embed = nn.Sequential(nn.Linear(2 * width, time), nn.SiLU(), nn.Linear(time, time))
        self.num_classes = num_classes
        if num_classes is not None:
            self.classes = nn.Embedding(num_classes + 1, time)  # the last is the null class

        def stage(first: int, channels: int) -> nn.ModuleList:
            widths = [first] + [channels] * depth
            return nn.ModuleList(ResidualBlock(a, b, time) for a, b in pairwise(widths))

        self.conv_in = nn.Conv2d(4 * in_channels, width, 3, padding=1)
        self.down = stage(width, width)
        self.pool = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.middle = stage(2 * width, 2 * width)
        self.up = stage(3 * width, width)
        self.norm_out = nn.GroupNorm(1, width)
        self.conv_out = zeroed(nn.Conv2d(width, 4 * in_channels, 3, padding=1))

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
        embedding = self.embed(get_timestep_embedding(time, self.time_features).to(x.dtype))
        if self.num_classes is not None:
            embedding = embedding + self.classes(labels)
        if condition is not None:
            embedding = embedding + condition
        embedding = F.silu(embedding)
        h = self.conv_in(F.pixel_unshuffle(x, 2))  # (B, width, H/2, W/2)
        for block in self.down:
            h = block(h, embedding)
        skip, h = h, self.pool(h)  # (B, 2 width, H/4, W/4)
        for block in self.middle:
            h = block(h, embedding)
        h = torch.cat([F.interpolate(h, scale_factor=2.0), skip], dim=1)
        for block in self.up:
            h = block(h, embedding)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), 2)

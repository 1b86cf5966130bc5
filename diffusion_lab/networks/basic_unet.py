"""Network of Hugging Face's tutorial: a small U-Net without normalisation or time input."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from diffusion_lab.errors import UserError
from diffusion_lab.networks.image_size import check_divisible


class BasicUNet(ModelMixin, ConfigMixin):
    """U-Net of three 5x5 convolutions down and three up, 309,057 parameters by default.

    Skip connections start after the activation, before pooling, and are added on the way up. SiLU
    follows every convolution including the last, so the output is never below -0.28.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | Sequence[int] = 28,
        channels: tuple[int, ...] = (32, 64, 64),
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if num_classes is not None:
            raise UserError(
                f"model.num_classes={num_classes}: expected null, because BasicUNet has no class "
                "input; type model.num_classes=null, or use network=unet_fast or network=unet2d"
            )
        halvings = len(channels) - 1
        if not channels or min(channels) < 1 or in_channels < 1:
            raise UserError(
                f"network.channels={list(channels)}, data.channels={in_channels}: "
                "expected at least one number in network.channels, and all numbers above 0"
            )
        check_divisible(
            image_size,
            2**halvings,
            f"BasicUNet with {len(channels)} levels halves the image {halvings} times",
            ", or fewer levels, for example network.channels=[32,64]",
        )
        widths = [in_channels, *channels]
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(a, b, kernel_size=5, padding=2) for a, b in pairs)
        self.up = nn.ModuleList(
            nn.Conv2d(b, a, kernel_size=5, padding=2) for a, b in reversed(pairs)
        )

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W); time and labels (B,) are ignored."""
        skips = []
        for i, conv in enumerate(self.down):
            x = F.silu(conv(x))
            if i < len(self.down) - 1:
                skips.append(x)
                x = F.max_pool2d(x, 2)
        for i, conv in enumerate(self.up):
            if i > 0:
                x = F.interpolate(x, scale_factor=2.0) + skips.pop()
            x = F.silu(conv(x))
        return x

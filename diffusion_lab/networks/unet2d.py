"""diffusers' UNet2DModel with checks of its settings."""

from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from diffusion_lab.errors import UserError
from diffusion_lab.networks.attention import NarrowHeads


class UNet2D(nn.Module):
    """UNet2DModel with the interface net(x_t, time, labels) -> like x_t.

    The tutorial's settings (the defaults) give 1,707,009 parameters. `use_time=False` replaces the
    time by 0, as the tutorial does. With `num_classes` UNet2DModel embeds the classes and a null
    class. Other keywords are passed to UNet2DModel.
    """

    # attention and GroupNorm copy channels_last tensors back: 10 % slower on a CPU
    memory_format = torch.contiguous_format

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        use_time: bool = True,
        block_out_channels: tuple[int, ...] = (32, 64, 64),
        down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        attention_head_dim: int = 8,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        if levels == 0 or min(block_out_channels) < 1 or min(norm_num_groups, layers_per_block) < 1:
            raise UserError(
                f"network.block_out_channels={list(block_out_channels)}, network.layers_per_block="
                f"{layers_per_block}, network.norm_num_groups={norm_num_groups}: "
                "expected at least one level and numbers above 0"
            )
        if len(down_block_types) != levels or len(up_block_types) != levels:
            raise UserError(
                f"network.block_out_channels has {levels} levels, network.down_block_types "
                f"{len(down_block_types)} and network.up_block_types {len(up_block_types)}: "
                "expected the same number of each"
            )
        if image_size % 2 ** (levels - 1):
            raise UserError(
                f"UNet2DModel with {levels} levels halves the image {levels - 1} times: "
                f"data.image_size={image_size} is no multiple of {2 ** (levels - 1)}; use fewer "
                "levels, or pad the images, "
                f"data.image_size={-(-image_size // 2**levels) * 2**levels}"
            )
        for channels in block_out_channels:
            if channels % norm_num_groups:
                raise UserError(
                    f"GroupNorm cannot divide {channels} channels into {norm_num_groups} groups: "
                    "choose network.block_out_channels as multiples of network.norm_num_groups"
                )
            if channels % attention_head_dim:
                raise UserError(
                    f"attention cannot divide {channels} channels into heads of "
                    f"{attention_head_dim}: change network.attention_head_dim"
                )
        self.use_time = use_time
        try:
            self.unet = UNet2DModel(
                sample_size=image_size,
                in_channels=in_channels,
                out_channels=in_channels,
                layers_per_block=layers_per_block,
                block_out_channels=tuple(block_out_channels),
                down_block_types=tuple(down_block_types),
                up_block_types=tuple(up_block_types),
                norm_num_groups=norm_num_groups,
                attention_head_dim=attention_head_dim,
                num_class_embeds=None if num_classes is None else num_classes + 1,
                **options,
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"network: UNet2DModel rejects these settings: {error}") from error
        for module in self.unet.modules():
            if isinstance(module, Attention):
                module.set_processor(NarrowHeads())

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W), time (B,) in [0, 1000] and labels (B,) to (B, C, H, W)."""
        if not self.use_time:
            time = torch.zeros_like(time)
        return self.unet(x, time, class_labels=labels, return_dict=False)[0]

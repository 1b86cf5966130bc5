"""diffusers' UNet2DModel with checks of its settings."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from diffusion_lab.errors import UserError
from diffusion_lab.networks.attention import NarrowHeads
from diffusion_lab.networks.image_size import check_divisible
from diffusion_lab.networks.layers import zeroed


class UNet2D(nn.Module):
    """diffusers' UNet2DModel with the interface net(x_t, time, labels) -> output (B, C, H, W).

    The defaults are the settings of Hugging Face's tutorial and give 1,707,009 parameters. With
    `use_time=False` the time is replaced by 0, as in the tutorial. With `num_classes` UNet2DModel
    embeds the classes and a null class. With `attention_head_dim=None` there is one head of all
    channels. With `zero_init` the last layer of the network and of every residual and attention
    block starts at zero, so that the output is initially zero (Ho et al. 2020, in their code).
    Other keywords are passed to UNet2DModel.
    """

    # attention and GroupNorm convert channels_last tensors back, which is 10 % slower on a CPU
    memory_format = torch.contiguous_format

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | Sequence[int] = 28,
        use_time: bool = True,
        block_out_channels: tuple[int, ...] = (32, 64, 64),
        down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        attention_head_dim: int | None = 8,
        num_classes: int | None = None,
        zero_init: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        if levels == 0 or min(block_out_channels) < 1 or min(norm_num_groups, layers_per_block) < 1:
            raise UserError(
                f"network.block_out_channels={list(block_out_channels)}, network.layers_per_block="
                f"{layers_per_block}, network.norm_num_groups={norm_num_groups}: "
                "expected at least one entry in network.block_out_channels, all numbers above 0"
            )
        if len(down_block_types) != levels or len(up_block_types) != levels:
            raise UserError(
                f"network.block_out_channels has {levels} entries, network.down_block_types has "
                f"{len(down_block_types)}, and network.up_block_types has {len(up_block_types)}: "
                "expected lists of the same length"
            )
        height, width = check_divisible(
            image_size,
            2 ** (levels - 1),
            f"UNet2DModel with {levels} levels halves the image {levels - 1} times",
            ", or use fewer levels (entries of network.block_out_channels)",
        )
        downs = zip(block_out_channels, down_block_types, strict=True)
        ups = zip(reversed(block_out_channels), up_block_types, strict=True)
        attending = {channels for channels, block in (*downs, *ups) if "Attn" in block}
        attending.add(block_out_channels[-1])  # the middle of the network
        for channels in block_out_channels:
            if channels % norm_num_groups:
                raise UserError(
                    f"GroupNorm cannot divide {channels} channels into {norm_num_groups} groups: "
                    "expected multiples of network.norm_num_groups in network.block_out_channels"
                )
        for channels in sorted(attending):
            if attention_head_dim is not None and channels % attention_head_dim:
                raise UserError(
                    f"attention cannot divide {channels} channels into heads of "
                    f"{attention_head_dim}: expected network.attention_head_dim to divide the "
                    "channels of all levels with attention, or network.attention_head_dim=null for "
                    "one head"
                )
        self.use_time = use_time
        try:
            self.unet = UNet2DModel(
                sample_size=height if height == width else (height, width),
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
            raise UserError(
                f"diffusers' UNet2DModel rejects a setting of network= ({error}): expected values "
                "that its documentation allows"
            ) from error
        self.embedding_channels: int = self.unet.time_embedding.linear_2.out_features
        self._condition: Tensor | None = None
        # UNet2DModel has no argument for a vector beside that of the class
        self.unet.time_embedding.register_forward_hook(self._add_condition)
        for module in self.unet.modules():
            if isinstance(module, Attention):
                module.set_processor(NarrowHeads())
        if zero_init:
            zeroed(self.unet.conv_out)
            for module in self.unet.modules():
                if isinstance(module, ResnetBlock2D):
                    zeroed(module.conv2)
                elif isinstance(module, Attention):
                    zeroed(module.to_out[0])

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
        self._condition = condition
        output = self.unet(x, time, class_labels=labels, return_dict=False)[0]
        self._condition = None
        return output

    def _add_condition(self, module: nn.Module, inputs: Any, embedding: Tensor) -> Tensor:
        return embedding if self._condition is None else embedding + self._condition

"""A diffusion transformer: patches of the image as tokens, conditioned through adaLN-zero."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.autograd import forward_ad

from diffusion_lab.errors import UserError
from diffusion_lab.networks.image_size import check_divisible
from diffusion_lab.networks.layers import ConditionEmbedding, rms_norm, zeroed

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of the angles of every token, (L, D / 2) each, for heads of D channels."""


def rotation(rows: int, columns: int, channels: int, device: torch.device) -> Rotation:
    """Return the rotary position angles of a grid of tokens, as cosines and sines.

    One half of the angles encodes the row, the other half the column. The frequencies are 100^(-k /
    K), k = 0 .. K - 1 with K = channels / 4, per row or column: Su et al. 2021 (arXiv 2104.09864),
    equation 15, on two axes. The base is 100 instead of 10,000, because the axes are short.
    `channels` is the number of channels per head.
    """
    count = channels // 4
    frequencies = 100.0 ** (-torch.arange(count, device=device) / count)
    of_row = torch.arange(rows, device=device)[:, None] * frequencies
    of_column = torch.arange(columns, device=device)[:, None] * frequencies
    angles = torch.cat(
        [of_row[:, None].expand(-1, columns, -1), of_column.expand(rows, -1, -1)], dim=-1
    ).flatten(0, 1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate the pairs (x_k, x_{k + D/2}) of x (B, heads, L, D) by the angles of their tokens."""
    cos, sin = (part.to(x.dtype) for part in by)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention softmax(Q K^T / sqrt(D)) V, all tensors (B, heads, L, D).

    Vaswani et al. 2017, equation 1. Under forward-mode differentiation the formula is written out,
    because torch's fused kernels have no forward-mode derivative.
    """
    if forward_ad.unpack_dual(query).tangent is None:
        return F.scaled_dot_product_attention(query, key, value)
    scores = query @ key.mT * query.shape[-1] ** -0.5
    return torch.softmax(scores, dim=-1) @ value


class Block(nn.Module):
    """Transformer block whose shifts, scales and gates depend on the embedding (adaLN-zero).

    An attention layer is followed by an MLP, each with a gated residual connection. Queries and
    keys are normalised per head (Henry et al. 2020, arXiv 2010.04245).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.query_scale = nn.Parameter(torch.ones(width // heads))
        self.key_scale = nn.Parameter(torch.ones(width // heads))
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )
        # gates start at zero, so that the block is initially the identity
        self.modulation = zeroed(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, embedding: Tensor, positions: Rotation | None) -> Tensor:
        """Map tokens x (B, L, width) and embedding (B, width) to (B, L, width)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (
            self.modulation(embedding).unsqueeze(1).chunk(6, dim=-1)
        )
        x = x + gate * self.attention(rms_norm(x) * (1 + scale) + shift, positions)
        return x + mlp_gate * self.mlp(rms_norm(x) * (1 + mlp_scale) + mlp_shift)

    def attention(self, x: Tensor, positions: Rotation | None) -> Tensor:
        """Apply self-attention over the tokens x: (B, L, width) -> (B, L, width)."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )  # (B, heads, L, D)
        query, key = rms_norm(query) * self.query_scale, rms_norm(key) * self.key_scale
        if positions is not None:
            query, key = rotate(query, positions), rotate(key, positions)
        seen = attend(query.to(value.dtype), key.to(value.dtype), value)
        return self.out(seen.transpose(1, 2).flatten(2))


class DiT(ModelMixin, ConfigMixin):
    """Diffusion transformer. Peebles & Xie 2022, arXiv 2212.09748.

    Patches have a side of `patch_size` pixels; half the side gives four times as many tokens. The
    position of a patch is encoded by rotations of queries and keys (`positions=rotary`) or by
    learned vectors added to the tokens (`positions=learned`). With `use_time=False` the time is
    replaced by 0. With `num_classes` a class embedding is added to the time embedding. All layers
    support forward-mode derivatives (torch.func.jvp).
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | Sequence[int] = 28,
        use_time: bool = True,
        patch_size: int = 4,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        positions: Literal["rotary", "learned"] = "rotary",
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if min(patch_size, width, depth, heads) < 1 or width % (4 * heads):
            raise UserError(
                f"network.patch_size={patch_size}, network.width={width}, network.depth={depth}, "
                f"network.heads={heads}: expected numbers above 0, and a width that is a "
                "multiple of 4 * network.heads, for example "
                f"network.width={4 * max(heads, 1) * 8}"
            )
        if positions not in ("rotary", "learned"):
            raise UserError(f"network.positions={positions}: expected rotary or learned")
        height_and_width = check_divisible(
            image_size,
            patch_size,
            f"DiT cuts the image into patches of {patch_size} x {patch_size} pixels",
            ", or change network.patch_size=",
        )
        self.patch_size = patch_size
        self.head_channels = width // heads
        self.use_time = use_time
        self.embedding_channels = width
        self.embed = ConditionEmbedding(width, num_classes)
        self.tokens = nn.Linear(in_channels * patch_size**2, width)
        self.learned = None
        if positions == "learned":
            count = math.prod(side // patch_size for side in height_and_width)
            self.learned = nn.Parameter(0.02 * torch.randn(count, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.modulation_out = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, in_channels * patch_size**2))

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
        patches = F.pixel_unshuffle(x, self.patch_size)  # (B, C p^2, H/p, W/p)
        rows, columns = patches.shape[2:]
        h = self.tokens(patches.flatten(2).mT)
        positions = None
        if self.learned is None:
            positions = rotation(rows, columns, self.head_channels, x.device)
        else:
            h = h + self.learned
        for block in self.blocks:
            h = block(h, embedding, positions)
        shift, scale = self.modulation_out(embedding).unsqueeze(1).chunk(2, dim=-1)
        h = self.out(rms_norm(h) * (1 + scale) + shift)
        return F.pixel_shuffle(h.mT.unflatten(2, (rows, columns)), self.patch_size)

"""Fast attention with many narrow heads on a CPU.

On a CPU torch's own kernel is slow for heads of few channels, as in small U-Nets.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

_SCORES = 2**21
"""Bytes of attention scores computed at a time: about the size of a processor's cache."""
_SHORT = 256
"""Largest number of pixels L for `Attend`, because its backward pass stores all L x L scores."""
_NARROW = 32
"""Largest number of channels per head at which torch's kernel is clearly slower."""


class Attend(torch.autograd.Function):
    """Attention softmax(Q^T K / sqrt(D)) V^T for tensors (N, D, L): N heads, L positions.

    Vaswani et al. 2017, arXiv 1706.03762, equation 1. A few heads are computed at a time, so that
    their scores fit into the cache. The axis L is contiguous in memory, and the gradients are
    computed in an order that keeps this layout. With the layout that autograd would choose, the
    products take up to four times as long. With bfloat16 inputs the scores, the softmax and their
    gradients are float32, as in torch's kernel, and are rounded to bfloat16 before each product
    with Q, K or V.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the attention of query, key and value: (N, D, L) each -> (N, D, L)."""
        wide = torch.promote_types(query.dtype, torch.float32)
        scaled = query.to(wide) * query.shape[1] ** -0.5
        out = torch.empty_like(value)
        weights = []
        with torch.autocast(query.device.type, enabled=False):
            for q, k, v, part in _parts(scaled, key, value, out):
                weight = torch.softmax(q.mT @ k.to(wide), -1).to(value.dtype)
                torch.bmm(v, weight.mT, out=part)
                if any(ctx.needs_input_grad):
                    weights.append(weight)
        ctx.save_for_backward(scaled, key, value, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of query, key and value, (N, D, L) each."""
        scaled, key, value, *weights = ctx.saved_tensors
        of_query, of_key, of_value = (torch.empty_like(value) for _ in range(3))
        wide, narrow = scaled.dtype, value.dtype
        parts = _parts(scaled, key, value, grads[0], of_query, of_key, of_value)
        with torch.autocast(value.device.type, enabled=False):
            for weight, part in zip(weights, parts, strict=True):
                q, k, v, grad, to_query, to_key, to_value = part
                torch.bmm(grad, weight, out=to_value)
                of_weight = grad.mT.to(wide) @ v.to(wide)
                # the function that autograd uses
                of_scores = torch._softmax_backward_data(of_weight, weight.to(wide), -1, wide)
                of_scores = of_scores.to(narrow)
                torch.bmm(k, of_scores.mT, out=to_query)
                torch.bmm(q.to(narrow), of_scores, out=to_key)
        return of_query.mul_(scaled.shape[1] ** -0.5), of_key, of_value


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors (N, D, L) along N; yield the first part of each tensor, then the second, ...

    The attention scores of a part fit into the processor's cache.
    """
    length = tensors[0].shape[2]
    at_once = max(1, _SCORES // (length * length * tensors[0].element_size()))
    return zip(*(tensor.split(at_once) for tensor in tensors), strict=True)


class NarrowHeads(AttnProcessor2_0):
    """Attention processor for diffusers' image networks that is faster on a CPU.

    With UNet2DModel's heads of 8 channels, a forward and backward pass took 185 ms with torch's
    kernel and 73 ms with `Attend`. In bfloat16 the passes took 245 ms with torch's kernel and 62 ms
    with an earlier `Attend`, whose scores were not yet float32. The measurements used 128 images
    of 14 x 14 pixels and two cores, see docs/cpu_speed.md.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Apply self-attention over the pixels of images: (B, C, H, W) -> (B, C, H, W).

        `Attend` is used for small images and narrow heads on a CPU, diffusers' own attention in
        all other cases.
        """
        if (
            encoder_hidden_states is not None
            or attention_mask is not None
            or attn.spatial_norm is not None
            or attn.group_norm is None
            or hidden_states.device.type != "cpu"
            or hidden_states.ndim != 4
            or hidden_states[0, 0].numel() > _SHORT
            or attn.inner_dim // attn.heads > _NARROW
            or torch.compiler.is_exporting()  # the split would fix the batch size
        ):
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb
            )
        pixels = attn.group_norm(hidden_states.flatten(2))  # (B, C, H W)
        heads = (
            _project(layer, pixels).unflatten(1, (attn.heads, -1)).flatten(0, 1)
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )  # (B heads, D, H W)
        seen = Attend.apply(*heads).view_as(pixels)
        out = attn.to_out[1](_project(attn.to_out[0], seen)).view_as(hidden_states)
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor


def _project(layer: nn.Linear, pixels: Tensor) -> Tensor:
    """Apply a linear layer to every pixel: (B, C, L) -> (B, C', L)."""
    return F.conv1d(pixels, layer.weight.unsqueeze(-1), layer.bias)

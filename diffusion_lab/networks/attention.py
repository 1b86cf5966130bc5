"""Attention of many narrow heads in bfloat16 on a CPU."""

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

_SCORES = 2**22
"""Bytes of scores at a time: about what stays in a processor's cache."""
_SHORT = 256
"""Pixels up to which it was tried; the scores of all heads are kept for the backward pass."""
_NARROW = 16
"""Channels of a head up to which torch's own kernel is slower."""


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V, (N, L, D) each -> (N, L, D), a few of the N at a time.

    Vaswani et al. 2017, arXiv 1706.03762, equation 1.
    """
    length, width = query.shape[1:]
    at_once = max(1, _SCORES // (length * length * query.element_size()))
    parts = zip(*(each.split(at_once) for each in (query * width**-0.5, key, value)), strict=True)
    return torch.cat([torch.softmax(q @ k.mT, -1) @ v for q, k, v in parts])


class NarrowHeads(AttnProcessor2_0):
    """diffusers' attention between the pixels of an image, quicker on a CPU in bfloat16.

    There torch's kernel, made for wide heads, took 267 ms forward and backward for UNet2DModel's
    heads of 8 channels, in float32 170, and `attend` about 70 (128 images, 14 x 14, two cores).
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); whatever else diffusers may ask for is left to it."""
        if (
            encoder_hidden_states is not None
            or attention_mask is not None
            or attn.spatial_norm is not None
            or attn.group_norm is None
            or hidden_states.ndim != 4
            or hidden_states[0, 0].numel() > _SHORT
            or attn.inner_dim // attn.heads > _NARROW
            or not _in_bfloat16_on_cpu(hidden_states)
        ):
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb
            )
        pixels = attn.group_norm(hidden_states.flatten(2)).mT  # (B, H W, C)
        query, key, value = (
            project(pixels).unflatten(-1, (attn.heads, -1)).transpose(1, 2).flatten(0, 1)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )  # (B heads, H W, D)
        seen = attend(query, key, value).unflatten(0, (-1, attn.heads)).transpose(1, 2).flatten(2)
        out = attn.to_out[1](attn.to_out[0](seen)).mT.reshape(hidden_states.shape)
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor


def _in_bfloat16_on_cpu(x: Tensor) -> bool:
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
    return x.device.type == "cpu" and dtype is torch.bfloat16

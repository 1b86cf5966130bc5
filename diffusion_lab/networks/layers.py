"""Layers shared by several networks: zero initialisation, RMSNorm, embedding of time and class."""

from typing import TypeVar

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)
_SINUSOIDS = 64


def zeroed(layer: Layer) -> Layer:
    """Set all parameters of a layer to zero and return the layer."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def rms_norm(x: Tensor) -> Tensor:
    """Divide x (..., D) by its root mean square over D. Zhang & Sennrich 2019, arXiv 1910.07467.

    The formula is written out, because torch's fused kernel lacks a forward-mode derivative on
    some devices. The mean is computed at least in float32.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class ConditionEmbedding(nn.Module):
    """Embedding of time and class: two linear layers on sinusoids of the time, plus a class vector.

    Times are from 0 to 1000, and the sinusoids have periods from 63 to 63,000. The usual sinusoids
    have periods from 6.3. The longer periods keep derivatives with respect to the time small (Lu &
    Song 2024, arXiv 2410.11081, section 4.1). Of the num_classes + 1 class vectors, the last is the
    null class.
    """

    def __init__(self, width: int, num_classes: int | None) -> None:
        super().__init__()
        self.of_time = nn.Sequential(
            nn.Linear(_SINUSOIDS, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.of_class = None if num_classes is None else nn.Embedding(num_classes + 1, width)

    def forward(
        self, time: Tensor, labels: Tensor | None, condition: Tensor | None = None
    ) -> Tensor:
        """Map time (B,) in [0, 1000] and labels (B,) to (B, width), plus a condition alike."""
        # float32 in any case, because bfloat16 cannot tell neighbouring times apart
        waves = get_timestep_embedding(
            time, _SINUSOIDS, downscale_freq_shift=1, scale=0.1, max_period=1000
        )
        embedding = self.of_time(waves.to(self.of_time[0].weight.dtype))
        if self.of_class is not None:
            embedding = embedding + self.of_class(labels)
        return embedding if condition is None else embedding + condition

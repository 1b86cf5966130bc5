"""Layers of several networks: zero initialisation, RMSNorm, embedding of time and class."""

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

    Written out because torch's fused kernel has no forward-mode derivative on every device. The
    mean is computed in float32 at least.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class ConditionEmbedding(nn.Module):
    """Embedding of time and class: two linear layers on sinusoids of the time, plus a class vector.

    The sinusoids have periods from 63 to 63,000, 1/16 of the range of the time to 63 times it. They
    are smoother than the usual ones, whose shortest period is 6.3, so that derivatives by the time
    stay small (Lu & Song 2024, arXiv 2410.11081, section 4.1). The last of the num_classes + 1
    class vectors is that of the null class.
    """

    def __init__(self, width: int, num_classes: int | None) -> None:
        super().__init__()
        self.of_time = nn.Sequential(
            nn.Linear(_SINUSOIDS, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.of_class = None if num_classes is None else nn.Embedding(num_classes + 1, width)

    def forward(self, time: Tensor, labels: Tensor | None) -> Tensor:
        """Map time (B,) in [0, 1000] and labels (B,) to (B, width)."""
        # float32 in any case, because bfloat16 cannot tell neighbouring times apart
        waves = get_timestep_embedding(
            time, _SINUSOIDS, downscale_freq_shift=1, scale=0.1, max_period=1000
        )
        embedding = self.of_time(waves.to(self.of_time[0].weight.dtype))
        return embedding if self.of_class is None else embedding + self.of_class(labels)

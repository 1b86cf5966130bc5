"""Networks with the interface net(x_t, time, labels=None) -> output of the shape of x_t.

The noised images x_t are (B, C, H, W). `time` (B,) is float32 in [0, 1000] for every noise
schedule: 1000 t for StraightPath, the timestep of a VP schedule, the scaled log sigma of a VE
schedule. A network that expects times in [0, 1] has to divide `time` by 1000. A network with
`num_classes` needs labels (B,) from 0 to num_classes; the label num_classes is the null class.

Names are imported on first use, so that `image_size.py` can be imported without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion_lab.networks.basic_unet import BasicUNet
    from diffusion_lab.networks.dit import DiT
    from diffusion_lab.networks.fast_unet import FastUNet
    from diffusion_lab.networks.mlp import MLP
    from diffusion_lab.networks.unet2d import UNet2D

__all__ = ["MLP", "BasicUNet", "DiT", "FastUNet", "UNet2D"]

_FILES = {
    "BasicUNet": "basic_unet",
    "DiT": "dit",
    "FastUNet": "fast_unet",
    "MLP": "mlp",
    "UNet2D": "unet2d",
}
"""File in this package that defines each name."""


if not TYPE_CHECKING:  # to a type checker, __getattr__ would make every name valid

    def __getattr__(name: str) -> Any:
        if name in _FILES:
            return getattr(import_module(f"diffusion_lab.networks.{_FILES[name]}"), name)
        raise AttributeError(f"module 'diffusion_lab.networks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

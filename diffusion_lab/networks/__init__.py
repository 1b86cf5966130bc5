"""Networks with the interface net(x_t, time, labels=None) -> output of the shape of x_t.

The noised images x_t are (B, C, H, W). `time` (B,) is float32 in [0, 1000] for every noise
schedule: 1000 t for StraightPath, the timestep of a VP schedule, the scaled log sigma of a VE
schedule. A network that expects times in [0, 1] has to divide `time` by 1000. A network with
`num_classes` needs labels (B,) from 0 to num_classes; the label num_classes is the null class.

A network with the attribute `embedding_channels` takes a fourth argument, `condition`: None, or a
tensor (B, embedding_channels) that is added to the embedding of the time. With `augment=` this
tensor describes the transformation of each training image.

Names are imported on first use, so that `image_size.py` can be imported without torch.
"""

from typing import TYPE_CHECKING

from diffusion_lab.system.lazy_import import lazy_names

if TYPE_CHECKING:
    from diffusion_lab.networks.basic_unet import BasicUNet
    from diffusion_lab.networks.dit import DiT
    from diffusion_lab.networks.fast_unet import FastUNet
    from diffusion_lab.networks.mlp import MLP
    from diffusion_lab.networks.unet2d import UNet2D

__all__ = ["MLP", "BasicUNet", "DiT", "FastUNet", "UNet2D"]

_MODULES = {
    "BasicUNet": "basic_unet",
    "DiT": "dit",
    "FastUNet": "fast_unet",
    "MLP": "mlp",
    "UNet2D": "unet2d",
}
"""Module in this package that defines each public name."""

if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)

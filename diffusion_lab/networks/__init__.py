"""Networks: net(x_t, time, labels=None) -> like x_t.

x_t is (B, C, H, W). `time` (B,) is float32 in [0, 1000] for every noise schedule: 1000 t on
straight paths, the timestep on VP paths, the scaled log sigma on VE paths. A network that expects t
in [0, 1] divides by 1000. A network with `num_classes` needs labels (B,) from 0 to num_classes; the
last is the null class.
"""

from diffusion_lab.networks.basic_unet import BasicUNet
from diffusion_lab.networks.fast_unet import FastUNet
from diffusion_lab.networks.unet2d import UNet2D

__all__ = ["BasicUNet", "FastUNet", "UNet2D"]

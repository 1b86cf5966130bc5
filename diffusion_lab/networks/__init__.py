"""Networks: net(x_t, time, labels=None) -> like x_t.

x_t is (B, C, H, W). `time` (B,) is float32 in [0, 1000] for every noise schedule: 1000 t on the
straight path, the timestep of a VP schedule, the scaled log sigma of a VE schedule. A network that
expects times in [0, 1] has to divide `time` by 1000. A network with `num_classes` needs labels (B,)
from 0 to num_classes; the label num_classes is the null class.
"""

from diffusion_lab.networks.basic_unet import BasicUNet
from diffusion_lab.networks.dit import DiT
from diffusion_lab.networks.fast_unet import FastUNet
from diffusion_lab.networks.mlp import MLP
from diffusion_lab.networks.unet2d import UNet2D

__all__ = ["MLP", "BasicUNet", "DiT", "FastUNet", "UNet2D"]

"""The tutorial's training loop, written without any code of this project.

The tutorial is Hugging Face's course notebook "Diffusion models from scratch". The loop uses
torchvision's loader, the tutorial's networks, Adam, uniform noise and the squared error to the
clean image, and records the loss after every step.
"""

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor


class PlainUNet(nn.Module):
    """Small U-Net of Hugging Face's tutorial: three convolutions down, three up, additive skips.

    The parameters have the same names as in this project's BasicUNet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [
                nn.Conv2d(1, 32, kernel_size=5, padding=2),
                nn.Conv2d(32, 64, kernel_size=5, padding=2),
                nn.Conv2d(64, 64, kernel_size=5, padding=2),
            ]
        )
        self.up = nn.ModuleList(
            [
                nn.Conv2d(64, 64, kernel_size=5, padding=2),
                nn.Conv2d(64, 32, kernel_size=5, padding=2),
                nn.Conv2d(32, 1, kernel_size=5, padding=2),
            ]
        )
        self.act = nn.SiLU()
        self.pool = nn.MaxPool2d(2)
        self.upsample = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        """Predict the clean images from noisy ones, (B, 1, 28, 28) -> (B, 1, 28, 28)."""
        skips = []
        for level, layer in enumerate(self.down):
            x = self.act(layer(x))
            if level < 2:
                skips.append(x)
                x = self.pool(x)
        for level, layer in enumerate(self.up):
            if level > 0:
                x = self.upsample(x) + skips.pop()
            x = self.act(layer(x))
        return x


class AtTimeZero(nn.Module):
    """UNet2DModel that gets timestep 0 at every noise level, as in the tutorial."""

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor) -> Tensor:
        """Predict the clean images from noisy ones, (B, C, H, W) -> (B, C, H, W)."""
        return self.unet(x, 0).sample


def plain_unet2d(size: int = 28) -> UNet2DModel:
    """Build the tutorial's UNet2DModel, for one-channel images of size x size pixels."""
    return UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


def plain_loader(root: Path, batch_size: int) -> DataLoader[Any]:
    """Return a DataLoader of shuffled MNIST training images, read by torchvision from `root`."""
    data = MNIST(root, train=True, download=False, transform=ToTensor())
    return DataLoader(data, batch_size=batch_size, shuffle=True)


def corrupt(x: Tensor, noise: Tensor, amount: Tensor) -> Tensor:
    """Mix images (B, C, H, W) and noise; amount (B,) from 0 (image only) to 1 (noise only)."""
    amount = amount.view(-1, 1, 1, 1)
    return x * (1 - amount) + noise * amount


def plain_loss(net: nn.Module, x: Tensor, noise: Tensor, amount: Tensor) -> Tensor:
    """Add noise to images x, predict the clean images and return the mean squared error, ()."""
    return F.mse_loss(net(corrupt(x, noise, amount)), x)


class PlainTraining:
    """Training loop of Hugging Face's tutorial, which can be run a few steps at a time."""

    def __init__(self, net: nn.Module, loader: DataLoader[Any], device: torch.device) -> None:
        self.net = net.to(device)
        self.device = device
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        self.losses: list[float] = []
        # epoch after epoch
        self.batches: Iterator[Any] = chain.from_iterable(repeat(loader))

    def steps(self, count: int) -> None:
        """Train for `count` more steps."""
        for _ in range(count):
            x, _ = next(self.batches)
            x = x.to(self.device)
            noise = torch.rand_like(x)
            amount = torch.rand(x.shape[0], device=self.device)
            loss = plain_loss(self.net, x, noise, amount)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())

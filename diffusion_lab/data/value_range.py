"""Conversion between uint8 pixels and network values."""

import torch
from torch import Tensor

from diffusion_lab.errors import UserError, unknown_name

RANGES = {"zero_one": (0.0, 1.0), "minus_one_one": (-1.0, 1.0)}


class ValueRange:
    """Mapping between uint8 pixels and the value range of the network.

    Args:
        name: "zero_one" for [0, 1] or "minus_one_one" for [-1, 1].

    Raises:
        UserError: for any other name.

    """

    def __init__(self, name: str) -> None:
        if name not in RANGES:
            raise UserError(unknown_name("data.value_range", name, list(RANGES)))
        self.name = name
        self.low, self.high = RANGES[name]

    def __repr__(self) -> str:
        """Return the constructor call, such as ValueRange('zero_one')."""
        return f"ValueRange({self.name!r})"

    def encode(self, pixels: Tensor) -> Tensor:
        """Map uint8 pixels of any shape to float32 values in [low, high]."""
        # Bit-exact with torchvision's ToTensor on every device. Divided by a Python number, CUDA
        # would multiply by 1 / 255 instead, which rounds differently.
        values = pixels.float()
        unit = values / values.new_full((), 255)
        return unit if self.name == "zero_one" else unit * 2 - 1

    def to_unit(self, values: Tensor) -> Tensor:
        """Map values of any shape to [0, 1] for display; values outside the range are clamped."""
        unit = values if self.name == "zero_one" else (values + 1) / 2
        return unit.clamp(0, 1)

    def decode(self, values: Tensor) -> Tensor:
        """Map values of any shape to the nearest uint8 pixels; NaN becomes 0.

        ``decode(encode(pixels))`` returns every pixel unchanged.
        """
        # half precision cannot represent all 256 levels
        unit = self.to_unit(values.float())
        return unit.mul(255).round().nan_to_num(nan=0.0).to(torch.uint8)

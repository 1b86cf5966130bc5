"""The one place where pixels become network values and network values become pixels."""

import torch
from torch import Tensor

from diffusion_lab.errors import UserError

RANGES = {"zero_one": (0.0, 1.0), "minus_one_one": (-1.0, 1.0)}


class ValueRange:
    """The mapping between uint8 pixels and the values a network sees, both ways.

    Args:
        name: "zero_one" for [0, 1] or "minus_one_one" for [-1, 1].

    Raises:
        UserError: for any other name.

    """

    def __init__(self, name: str) -> None:
        if name not in RANGES:
            raise UserError(
                f"unknown value range {name!r}: expected {' or '.join(RANGES)}, "
                "for example data.value_range=zero_one"
            )
        self.name = name
        self.low, self.high = RANGES[name]

    def __repr__(self) -> str:
        """Look like the call that makes it."""
        return f"ValueRange({self.name!r})"

    def encode(self, pixels: Tensor) -> Tensor:
        """Map uint8 pixels of any shape to float32 values in [low, high]."""
        # torchvision's ToTensor, to the last bit, on any device: by a plain number CUDA would not
        # divide but multiply with 1 / 255, which rounds differently.
        values = pixels.float()
        unit = values / values.new_full((), 255)
        return unit if self.name == "zero_one" else unit * 2 - 1

    def to_unit(self, values: Tensor) -> Tensor:
        """Map values of any shape to [0, 1] for display; what lies outside the range is clamped."""
        unit = values if self.name == "zero_one" else (values + 1) / 2
        return unit.clamp(0, 1)

    def decode(self, values: Tensor) -> Tensor:
        """Map values of any shape to the nearest uint8 pixels; a value that is not a number is 0.

        ``decode(encode(pixels))`` gives back every pixel unchanged.
        """
        # In half precision 255 levels do not survive the arithmetic.
        unit = self.to_unit(values.float())
        return unit.mul(255).round().nan_to_num(nan=0.0).to(torch.uint8)

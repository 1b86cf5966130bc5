"""Conversion between the stored data, pixels or real numbers, and network values."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.errors import UserError, unknown_name

RANGES = {"zero_one": (0.0, 1.0), "minus_one_one": (-1.0, 1.0)}
"""Values of black and white."""
UNBOUNDED = "unbounded"


class ValueRange:
    """Mapping between uint8 pixels and the value range of the network, or no mapping.

    Data that are no pixels, such as points and latents, are real numbers of any size. Their range
    is "unbounded": they are trained on, sampled and saved as they are, without clamping.

    Args:
        name: "zero_one" for [0, 1], "minus_one_one" for [-1, 1], or "unbounded".

    Raises:
        UserError: for any other name.

    """

    def __init__(self, name: str) -> None:
        if name not in (*RANGES, UNBOUNDED):
            raise UserError(unknown_name("data.value_range", name, [*RANGES, UNBOUNDED]))
        self.name = name
        self.low, self.high = RANGES.get(name, (-math.inf, math.inf))

    def __repr__(self) -> str:
        """Return the constructor call, such as ValueRange('zero_one')."""
        return f"ValueRange({self.name!r})"

    @property
    def is_pixels(self) -> bool:
        """True if the stored data are uint8 pixels, False if they are real numbers."""
        return self.name != UNBOUNDED

    @property
    def kind(self) -> str:
        """What the network's values are, for messages."""
        return "pixels" if self.is_pixels else "real numbers"

    @property
    def bounded(self) -> bool:
        """True if the network's values lie in [low, high], to which a sampler may clip them."""
        return math.isfinite(self.low)

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of the network's values of stored images (C, H, W)."""
        return image_shape

    def known(self, pixels: Tensor) -> Tensor:
        """Map a mask of pixels, bool (H, W), to that of the network's values."""
        return pixels

    def prepare(self, device: torch.device) -> None:
        """Load what the conversion needs, and convert on this device where that is faster."""

    def record(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, beside the configuration, to make this object."""
        return {}

    def use_record(self, record: Mapping[str, Any]) -> None:
        """Take what `record` returned from a checkpoint's data; UserError if it does not fit."""

    def check_flip(self) -> None:
        """Raise UserError unless a mirrored image is also mirrored in the network's values."""
        self.check_pixels("data.flip=true", "leave it out")

    def check_pixels(self, what: str, remedy: str = "use a run that was trained on images") -> None:
        """Raise UserError unless the data are pixels.

        `what` names the part that needs pixels, and `remedy` says what to type instead.
        """
        if not self.is_pixels:
            raise UserError(
                f"{what} needs pixels, but these data are real numbers "
                f"(data.value_range={self.name}): {remedy}"
            )

    def encode(self, data: Tensor) -> Tensor:
        """Map stored data of any shape to float32: pixels into [low, high], numbers unchanged."""
        values = data.float()
        if not self.is_pixels:
            return values
        # Bit-exact with torchvision's ToTensor on every device. Divided by a Python number, CUDA
        # would multiply by 1 / 255 instead, which rounds differently.
        unit = values / values.new_full((), 255)
        return unit if self.name == "zero_one" else unit * 2 - 1

    def to_unit(self, values: Tensor) -> Tensor:
        """Map values of any shape to [0, 1] for display; values outside the range are clamped.

        Raises UserError for an unbounded range.
        """
        self.check_pixels("an image")
        unit = values if self.name == "zero_one" else (values + 1) / 2
        return unit.clamp(0, 1)

    def decode(self, values: Tensor) -> Tensor:
        """Map values of any shape to the nearest uint8 pixels, or to float32 if unbounded.

        NaN becomes 0 in pixels. ``decode(encode(data))`` returns uint8 and float32 data unchanged.
        """
        if not self.is_pixels:
            return values.float()
        # half precision cannot represent all 256 levels
        unit = self.to_unit(values.float())
        return unit.mul(255).round().nan_to_num(nan=0.0).to(torch.uint8)

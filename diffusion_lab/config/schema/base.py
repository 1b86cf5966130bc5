"""Fields that several schemas share, and integer fields with limits."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

LARGEST_SEED = 2**32 - 1
"""The largest seed that both NumPy and torch accept."""


def limited(default: Any, least: int, most: int | None = None) -> Any:
    """Declare a whole number from `least` to `most`; null is valid if it is the default.

    `config.validate.validate` checks the limits.
    """
    return field(default=default, metadata={"least": least, "most": most})


def seed_field(default: Any = 0) -> Any:
    """Declare a seed, from 0 to LARGEST_SEED."""
    return limited(default, 0, LARGEST_SEED)


@dataclass
class RunSource:
    """Options that name the trained run a command reads."""

    run: str = MISSING
    checkpoint: str = "last"
    weights: str | None = None
    trust: list[str] = field(default_factory=list)


@dataclass
class RunDataConfig:
    """Folder of the run's data; null for the folder recorded in training."""

    data_dir: str | None = None
    data_path: str | None = None

"""Fields that several schemas share, and integer fields with limits."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

LARGEST_SEED = 2**32 - 1
"""The largest seed that both NumPy and torch accept."""


def limited(default: Any, least: int, most: int | None = None) -> Any:
    """Declare a dataclass field for an integer from `least` to `most` (None for no upper limit).

    null is valid if it is the default. `config.validate.validate` checks the limits.
    """
    return field(default=default, metadata={"least": least, "most": most})


def seed_field(default: Any = 0) -> Any:
    """Declare a dataclass field for a seed, from 0 to LARGEST_SEED."""
    return limited(default, 0, LARGEST_SEED)


@dataclass
class RunSource:
    """Options that select a trained run, its checkpoint and its weights."""

    run: str = MISSING
    checkpoint: str = "last"
    weights: str | None = None
    trust: list[str] = field(default_factory=list)


@dataclass
class RunDataConfig:
    """Folder that holds the run's data set; null for the folder that the training used."""

    data_dir: str | None = None
    data_path: str | None = None

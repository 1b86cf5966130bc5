"""Fields that several schemas share, and fields with limits."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

LARGEST_SEED = 2**32 - 1
"""NumPy and torch both take it."""


def limited(default: Any, least: int, most: int | None = None) -> Any:
    """A whole number from `least` to `most`, or null where the default is null.

    `config.validate.validate` checks it.
    """
    return field(default=default, metadata={"least": least, "most": most})


def seed_field(default: Any = 0) -> Any:
    """A seed."""
    return limited(default, 0, LARGEST_SEED)


@dataclass
class RunSource:
    """The trained run that a command reads."""

    run: str = MISSING
    checkpoint: str = "last"
    weights: str | None = None
    trust: list[str] = field(default_factory=list)


@dataclass
class RunDataConfig:
    """The folder of the run's data; null: where the run found them."""

    data_dir: str | None = None

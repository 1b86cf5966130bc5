"""Schema of scripts/ladder.py."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from diffusion_lab.config.schema.base import limited


@dataclass
class RungConfig:
    """One rung of a ladder of runs: name, description of the change, overrides of train.py."""

    name: str = MISSING
    change: str = MISSING
    overrides: list[str] = MISSING


@dataclass
class RungsConfig:
    """Rungs of a ladder, and the overrides of scripts/train.py that all rungs share.

    A ladder is a series of configurations; every rung adds one change to the rung before it.
    """

    shared: list[str] = field(default_factory=list)
    rungs: list[RungConfig] = MISSING


@dataclass
class LadderPathsConfig:
    """Folders of the data and the results."""

    data_dir: str | None = None
    log_dir: str = MISSING


@dataclass
class LadderConfig:
    """Options of scripts/ladder.py; `words` are overrides of train.py for all its trainings."""

    ladder: RungsConfig = field(default_factory=RungsConfig)
    words: list[str] = field(default_factory=list)
    seeds: Any = 3
    num_samples: int = limited(2000, least=2)
    batch_size: int = limited(250, least=1)
    extractor: str | None = None
    out: str | None = None
    trust: list[str] = field(default_factory=list)
    paths: LadderPathsConfig = field(default_factory=LadderPathsConfig)

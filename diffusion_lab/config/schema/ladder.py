"""The types of a ladder of trainings."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class RungConfig:
    """One change."""

    name: str = MISSING
    change: str = MISSING
    overrides: list[str] = MISSING


@dataclass
class RungsConfig:
    """What all rungs have, as words of scripts/train.py, and what each adds."""

    shared: list[str] = field(default_factory=list)
    rungs: list[RungConfig] = MISSING


@dataclass
class LadderPathsConfig:
    """Where the data are and where ladders go."""

    data_dir: str | None = None
    log_dir: str = MISSING


@dataclass
class LadderConfig:
    """Trainings one change apart, at one budget."""

    ladder: RungsConfig = field(default_factory=RungsConfig)
    words: list[str] = field(default_factory=list)
    seeds: Any = 3
    num_samples: int = 2000
    batch_size: int = 250
    extractor: str | None = None
    out: str | None = None
    paths: LadderPathsConfig = field(default_factory=LadderPathsConfig)

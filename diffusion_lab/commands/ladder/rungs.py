"""The rungs of a ladder as configurations, and the checks that make them comparable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.compose import compose_config
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.validate import check_config, check_keys
from diffusion_lab.errors import UserError
from diffusion_lab.training.components import build_model

BUDGET = (
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.accumulate_grad_batches",
    "trainer.limit_train_batches",
    "data.batch_size",
    "data.train_size",
    "data.val_size",
    "data.source",
    "data.name",
)
"""What is the same on all rungs, or they would not compare."""
_SET_HERE = ("seed=", "paths.", "command", "hydra")
_OF_A_RUN = ("command", "paths", "seed")


@dataclass(frozen=True)
class Rung:
    """One step up the ladder."""

    number: int
    name: str
    change: str
    """What is new, for people."""
    own: tuple[str, ...]
    """Its own words of scripts/train.py."""
    words: tuple[str, ...]
    """All its words: shared ones, those of the rungs up to it, those typed."""

    @property
    def title(self) -> str:
        """What errors and lines of progress call it."""
        return f"rung {self.number} ({self.name})"

    def config(self, paths: Mapping[str, str | None]) -> DictConfig:
        """What is trained; UserError, naming the rung, for a word that is none.

        `paths` are the ladder's data_dir and log_dir.
        """
        try:
            cfg = compose_config(self.words)
        except UserError as error:
            raise UserError(f"{self.title}: {error}") from error
        cfg.paths.data_dir, cfg.paths.log_dir = paths["data_dir"], paths["log_dir"]
        return cfg


def seeded(cfg: DictConfig, seed: int, folder: Path) -> DictConfig:
    """The same configuration with a seed, to be trained in that folder."""
    mine = cfg.copy()
    mine.seed, mine.paths.output_dir = seed, str(folder)
    mine.command.overrides = [*cfg.command.overrides, f"seed={seed}"]
    return mine


def read_rungs(plan: Mapping[str, Any], typed: Sequence[str] = ()) -> list[Rung]:
    """The rungs of a plain RungsConfig; what is typed comes last and so beats them all.

    Raises UserError for a ladder that is none.
    """
    if not plan["rungs"]:
        raise UserError("ladder.rungs is empty: expected a list of name, change, overrides")
    rungs: list[Rung] = []
    words = tuple(plan["shared"])
    for number, node in enumerate(plan["rungs"]):
        own = tuple(node["overrides"])
        words += own
        for word in (*words, *typed):
            if word.lstrip("+~").startswith(_SET_HERE):
                raise UserError(
                    f"rung {number} ({node['name']}): {word} is set by the ladder: give seeds=, "
                    "out=, paths.data_dir="
                )
        rungs.append(Rung(number, node["name"], node["change"], own, (*words, *typed)))
    names = [rung.name for rung in rungs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"ladder.rungs has {name} more than once: give each a name of its own")
    return rungs


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """A nested configuration as dotted keys; lists stay whole."""
    if not isinstance(node, Mapping):
        return {path: node}
    found: dict[str, Any] = {}
    for key, child in node.items():
        found |= flat(child, f"{path}.{key}" if path else str(key))
    return found


def differences(one: DictConfig, other: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Where two configurations of a training differ, but for whose run it is: key -> both values.

    They are compared as they were written, so that what follows from a key is not told as well. A
    key that only one has counts as None in the other.
    """
    a, b = (
        {
            key: value
            for key, value in flat(OmegaConf.to_container(cfg)).items()
            if key.partition(".")[0] not in _OF_A_RUN
        }
        for cfg in (one, other)
    )
    keys = sorted(a.keys() | b.keys())
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def check_rungs(rungs: Sequence[Rung], configs: Sequence[DictConfig]) -> None:
    """Raise UserError, naming the rung, for one that cannot be trained or does not compare."""
    for rung, cfg in zip(rungs, configs, strict=True):
        try:
            config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
            check_keys(config, TrainConfig)
            check_config(config)
            build_model(cfg)
        except UserError as error:
            raise UserError(f"{rung.title}: {error}") from error
        if cfg.trainer.max_steps < 1 or cfg.trainer.max_time is not None:
            raise UserError(
                f"{rung.title}: trainer.max_steps={cfg.trainer.max_steps}, trainer.max_time="
                f"{cfg.trainer.max_time}: the budget of a ladder is a number of steps, "
                "trainer.max_steps=1000 and no max_time"
            )
        budget = {key: OmegaConf.select(cfg, key) for key in BUDGET}
        for key, value in budget.items():
            first = OmegaConf.select(configs[0], key)
            if value != first:
                raise UserError(
                    f"{rung.title}: {key}={value} is another budget than that of "
                    f"{rungs[0].title}, {first}: give both the same, under ladder.shared"
                )
    for before, rung, one, other in zip(
        rungs[:-1], rungs[1:], configs[:-1], configs[1:], strict=True
    ):
        if not differences(one, other):
            raise UserError(
                f"{rung.title} is the same training as {before.title}: give it overrides that "
                "change something, and type nothing that undoes them"
            )

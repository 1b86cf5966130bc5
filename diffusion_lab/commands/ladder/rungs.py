"""Rungs of a ladder (one training configuration each), and checks that they are comparable."""

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
"""Settings that must be equal on all rungs for a fair comparison."""
_SET_HERE = ("seed=", "paths.", "command", "hydra")
_OF_A_RUN = ("command", "paths", "seed")


@dataclass(frozen=True)
class Rung:
    """One training configuration of a ladder, which adds one change to the rung before."""

    number: int
    name: str
    change: str
    """Description of the change against the rung before."""
    own: tuple[str, ...]
    """Overrides that this rung adds."""
    words: tuple[str, ...]
    """All overrides, in order: shared, of each rung up to this one, of the command line."""

    @property
    def title(self) -> str:
        """Name of the rung in errors and progress lines."""
        return f"rung {self.number} ({self.name})"

    def config(self, paths: Mapping[str, str | None]) -> DictConfig:
        """Compose the rung's training configuration, without a seed or a run folder of its own.

        `paths` are the ladder's data_dir and log_dir. Raises UserError, with the rung's name, for
        an invalid override.
        """
        try:
            cfg = compose_config(self.words)
        except UserError as error:
            raise UserError(f"{self.title}: {error}") from error
        cfg.paths.data_dir, cfg.paths.log_dir = paths["data_dir"], paths["log_dir"]
        return cfg


def seeded(cfg: DictConfig, seed: int, folder: Path) -> DictConfig:
    """Return a copy of a configuration with this seed and this run folder."""
    mine = cfg.copy()
    mine.seed, mine.paths.output_dir = seed, str(folder)
    mine.command.overrides = [*cfg.command.overrides, f"seed={seed}"]
    return mine


def read_rungs(plan: Mapping[str, Any], typed: Sequence[str] = ()) -> list[Rung]:
    """Read the rungs of `plan`, a RungsConfig as plain dictionary.

    The overrides `typed` on the command line come last on every rung. Raises UserError if there are
    no rungs, if two have the same name, and for overrides that the ladder sets itself, such as
    seed=.
    """
    if not plan["rungs"]:
        raise UserError(
            "ladder.rungs is empty: expected a list of rungs, each with name, change and overrides"
        )
    rungs: list[Rung] = []
    words = tuple(plan["shared"])
    for number, node in enumerate(plan["rungs"]):
        own = tuple(node["overrides"])
        words += own
        for word in (*words, *typed):
            if word.lstrip("+~").startswith(_SET_HERE):
                raise UserError(
                    f"rung {number} ({node['name']}): leave out {word}, because the ladder itself "
                    "sets seeds and folders; type seeds=, out= or paths.data_dir= instead"
                )
        rungs.append(Rung(number, node["name"], node["change"], own, (*words, *typed)))
    names = [rung.name for rung in rungs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"ladder.rungs has the name {name} more than once: expected a different name for "
                "each rung"
            )
    return rungs


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to dotted keys; lists stay whole."""
    if not isinstance(node, Mapping):
        return {path: node}
    values: dict[str, Any] = {}
    for key, child in node.items():
        values |= flat(child, f"{path}.{key}" if path else str(key))
    return values


def differences(one: DictConfig, other: DictConfig) -> dict[str, tuple[Any, Any]]:
    """List the settings in which two training configurations differ: key -> both values.

    Seed, paths and command line are left out. Interpolations are compared unresolved, so that a
    key is listed without the keys that refer to it. A missing key counts as None.
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
    """Raise UserError, with the rung's name, for a rung that is invalid or not comparable.

    Rungs are comparable if they have the same training budget and each differs from the one before.
    """
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
                f"{cfg.trainer.max_time}: expected a number of steps as budget; type for example "
                "trainer.max_steps=1000 and leave out trainer.max_time="
            )
        budget = {key: OmegaConf.select(cfg, key) for key in BUDGET}
        for key, value in budget.items():
            first = OmegaConf.select(configs[0], key)
            if value != first:
                raise UserError(
                    f"{rung.title}: {key}={value}, but {rungs[0].title} has {first}: expected the "
                    f"same training budget on all rungs; set {key} in ladder.shared only"
                )
    for before, rung, one, other in zip(
        rungs[:-1], rungs[1:], configs[:-1], configs[1:], strict=True
    ):
        if not differences(one, other):
            raise UserError(
                f"{rung.title} is the same training as {before.title}: expected overrides in "
                "ladder.rungs that change a setting, and no option on the command line that undoes "
                "the change"
            )

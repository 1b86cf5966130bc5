"""The words of the configuration groups as objects, and why some pairs of them make no sense."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from diffusion_lab.config.instantiate import build
from diffusion_lab.config.paths import CONFIG_DIR
from diffusion_lab.diffusion import NoiseSchedule, Prediction, Sampler
from diffusion_lab.diffusion.samplers.scheduler_options import SPACINGS
from diffusion_lab.errors import UserError


def words(group: str) -> list[str]:
    """The words of a group, in alphabetical order."""
    return sorted(path.stem for path in Path(CONFIG_DIR, group).glob("*.yaml"))


def option(group: str, word: str, **settings: Any) -> Any:
    """What a word of a group builds, with some of its settings changed."""
    return build(_config(group, word) | settings, _convert_="all")


@cache
def _config(group: str, word: str) -> dict[str, Any]:
    path = Path(CONFIG_DIR, group, f"{word}.yaml")
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))


@cache
def noise_schedules() -> dict[str, NoiseSchedule]:
    """Every noise schedule by its word."""
    return {word: option("noise_schedule", word) for word in words("noise_schedule")}


@cache
def predictions() -> dict[str, Prediction]:
    """Every prediction by its word."""
    return {word: option("prediction", word) for word in words("prediction")}


def spacings(sampler: str) -> tuple[str | None, ...]:
    """The timestep spacings a sampler takes; (None,) if it has its own."""
    return SPACINGS if "timestep_spacing" in _config("sampler", sampler) else (None,)


def make_sampler(word: str, spacing: str | None = None, **settings: Any) -> Sampler:
    """A sampler by its word, with a timestep spacing where it takes one."""
    if spacing is not None:
        settings["timestep_spacing"] = spacing
    return option("sampler", word, **settings)


def sampler_config(word: str) -> dict[str, Any]:
    """The settings that a sampler's word stands for."""
    return dict(_config("sampler", word))


def sampler_word(config: Mapping[str, Any]) -> str:
    """The word whose settings a sampler's configuration has most of; its class's name if none."""

    def shared(word: str) -> int:
        own = _config("sampler", word)
        if any(own.get(key) != config.get(key) for key in ("_target_", "scheduler")):
            return 0
        return len([key for key in own if own[key] == config.get(key)])

    best = max(words("sampler"), key=shared)
    return best if shared(best) else str(config.get("_target_", "unknown")).rpartition(".")[2]


def refusal(part: Sampler | Prediction, noise_schedule: NoiseSchedule) -> str | None:
    """Why a sampler or prediction does not go with a noise schedule; None if it does."""
    try:
        part.check(noise_schedule)
    except UserError as error:
        return str(error)
    return None

"""Build options of the configuration groups as objects, and check whether they are compatible.

Options are read from the whole search path, so those in the user's `./configs` are included.
"""

from collections.abc import Mapping
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_lab.config.instantiate import build, build_part
from diffusion_lab.config.search_path import options as words
from diffusion_lab.config.search_path import read_option
from diffusion_lab.config.validate import check_config
from diffusion_lab.diffusion import NoiseSchedule, Prediction, Sampler
from diffusion_lab.diffusion.samplers.scheduler_options import SPACINGS
from diffusion_lab.errors import UserError


def option(group: str, word: str, **settings: Any) -> Any:
    """Build an option of a group, with some of its settings changed.

    Raises UserError for a class that cannot be imported or settings that it does not take.
    """
    config = _resolved(group, word, settings)
    return build(config, _convert_="all")


def _resolved(group: str, word: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an option; UserError if they refer to another group."""
    nodes = OmegaConf.create({group: read_option(group, word) | dict(settings)})
    try:
        config = cast(dict[str, Any], OmegaConf.to_container(nodes, resolve=True))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{group}={word} cannot be built by itself: {reason}") from error
    check_config(config)
    return cast(dict[str, Any], config[group])


def noise_schedules() -> dict[str, NoiseSchedule]:
    """Build every noise schedule: name of the option -> schedule."""
    return {word: option("noise_schedule", word) for word in words("noise_schedule")}


def predictions() -> dict[str, Prediction]:
    """Build every prediction: name of the option -> prediction."""
    return {word: option("prediction", word) for word in words("prediction")}


def spacings(sampler: str) -> tuple[str | None, ...]:
    """Return the timestep spacings that a sampler accepts; (None,) if it has no such option."""
    return SPACINGS if "timestep_spacing" in read_option("sampler", sampler) else (None,)


def make_sampler(word: str, spacing: str | None = None, **settings: Any) -> Sampler:
    """Build a sampler by the name of its option, with this timestep spacing if one is given."""
    if spacing is not None:
        settings["timestep_spacing"] = spacing
    config = _resolved("sampler", word, settings)
    sampler: Sampler = build_part("sampler", config, Sampler)
    return sampler


def sampler_config(word: str) -> dict[str, Any]:
    """Return the settings of a sampler option."""
    return read_option("sampler", word)


def sampler_word(config: Mapping[str, Any]) -> str:
    """Return the sampler option that shares the most settings with a sampler's configuration.

    Returns the name of the sampler's class if no option has this class.
    """

    def shared(word: str) -> int:
        own = read_option("sampler", word)
        if any(own.get(key) != config.get(key) for key in ("_target_", "scheduler")):
            return 0
        return len([key for key in own if own[key] == config.get(key)])

    best = max(words("sampler"), key=shared)
    return best if shared(best) else str(config.get("_target_", "unknown")).rpartition(".")[2]


def refusal(part: Sampler | Prediction, noise_schedule: NoiseSchedule) -> str | None:
    """Return why a sampler or prediction does not fit a noise schedule; None if it fits."""
    try:
        part.check(noise_schedule)
    except UserError as error:
        return str(error)
    return None

"""Options of the configuration groups as objects, and which of them do not go together.

Every list reads the whole search path: an option in the user's `./configs` counts as any other.
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
    """The settings of an option by itself; UserError where they refer to another group."""
    nodes = OmegaConf.create({group: read_option(group, word) | dict(settings)})
    try:
        config = cast(dict[str, Any], OmegaConf.to_container(nodes, resolve=True))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{group}={word} cannot be built by itself: {reason}") from error
    check_config(config)
    return cast(dict[str, Any], config[group])


def noise_schedules() -> dict[str, NoiseSchedule]:
    """Every noise schedule by the name of its option."""
    return {word: option("noise_schedule", word) for word in words("noise_schedule")}


def predictions() -> dict[str, Prediction]:
    """Every prediction by the name of its option."""
    return {word: option("prediction", word) for word in words("prediction")}


def spacings(sampler: str) -> tuple[str | None, ...]:
    """The timestep spacings that a sampler takes; (None,) if it has its own."""
    return SPACINGS if "timestep_spacing" in read_option("sampler", sampler) else (None,)


def make_sampler(word: str, spacing: str | None = None, **settings: Any) -> Sampler:
    """Build a sampler by the name of its option, with a timestep spacing if it takes one."""
    if spacing is not None:
        settings["timestep_spacing"] = spacing
    config = _resolved("sampler", word, settings)
    sampler: Sampler = build_part("sampler", config, Sampler)
    return sampler


def sampler_config(word: str) -> dict[str, Any]:
    """The settings of a sampler option."""
    return read_option("sampler", word)


def sampler_word(config: Mapping[str, Any]) -> str:
    """Name the option that a sampler's configuration shares most settings with.

    The name of its class where no option has that class.
    """

    def shared(word: str) -> int:
        own = read_option("sampler", word)
        if any(own.get(key) != config.get(key) for key in ("_target_", "scheduler")):
            return 0
        return len([key for key in own if own[key] == config.get(key)])

    best = max(words("sampler"), key=shared)
    return best if shared(best) else str(config.get("_target_", "unknown")).rpartition(".")[2]


def refusal(part: Sampler | Prediction, noise_schedule: NoiseSchedule) -> str | None:
    """The reason why a sampler or prediction does not fit a noise schedule; None if it does."""
    try:
        part.check(noise_schedule)
    except UserError as error:
        return str(error)
    return None

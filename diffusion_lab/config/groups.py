"""Turn the options of configuration groups into objects, and find out which are compatible.

Options are read from all folders of the search path, including the user's `./configs`.
"""

from collections.abc import Mapping
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
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
    """Build the object of the option `<group>=<word>`, with some of its settings changed.

    Raises UserError for a class that cannot be imported, or a setting that the class does not take.
    """
    config = _resolved(group, word, settings)
    return build(config, _convert_="all")


def _resolved(group: str, word: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the option `<group>=<word>`, with interpolations resolved.

    Raises UserError if a setting refers to another group.
    """
    nodes = OmegaConf.create({group: read_option(group, word) | dict(settings)})
    try:
        config = cast(dict[str, Any], OmegaConf.to_container(nodes, resolve=True))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{group}={word} refers to another part of the configuration ({reason}): expected an "
            "option that can be built alone; write the value itself into its YAML file"
        ) from error
    check_config(config)
    return cast(dict[str, Any], config[group])


def noise_schedules() -> dict[str, NoiseSchedule]:
    """Return the noise schedule of every option of noise_schedule=, by the option's name."""
    return {word: option("noise_schedule", word) for word in words("noise_schedule")}


def predictions() -> dict[str, Prediction]:
    """Return the prediction of every option of prediction=, by the option's name."""
    return {word: option("prediction", word) for word in words("prediction")}


def spacings(sampler: str) -> tuple[str | None, ...]:
    """Return the timestep spacings that the option `sampler=<sampler>` accepts; (None,) if none."""
    return SPACINGS if "timestep_spacing" in read_option("sampler", sampler) else (None,)


def make_sampler(word: str, spacing: str | None = None, **settings: Any) -> Sampler:
    """Build the sampler of the option `sampler=<word>`, with some of its settings changed.

    `spacing` is the timestep spacing; None for the option's own.
    """
    if spacing is not None:
        settings["timestep_spacing"] = spacing
    config = _resolved("sampler", word, settings)
    sampler: Sampler = build_part("sampler", config, Sampler)
    return sampler


def sampler_config(word: str) -> dict[str, Any]:
    """Return the settings of the option `sampler=<word>`, with interpolations unresolved."""
    return read_option("sampler", word)


def chosen_sampler_word(config: Mapping[str, Any]) -> str:
    """Return the name of the sampler option that the running command chose, or `sampler_word`.

    The chosen name is returned only if its option has the class in `config`, because a command may
    also use the sampler of a saved run.
    """
    hydra = HydraConfig.instance().cfg
    word = None if hydra is None else hydra.hydra.runtime.choices.get("sampler")
    if word in words("sampler"):
        own = read_option("sampler", word)
        if all(own.get(key) == config.get(key) for key in ("_target_", "scheduler")):
            return str(word)
    return sampler_word(config)


def sampler_word(config: Mapping[str, Any]) -> str:
    """Return the name of the sampler option with the most settings equal to those in `config`.

    Returns the name of the sampler's class if no option has this class.
    """

    def shared(word: str) -> int:
        try:
            own = read_option("sampler", word)
        except UserError:  # of another file in the user's folder
            return 0
        if any(own.get(key) != config.get(key) for key in ("_target_", "scheduler")):
            return 0
        return len([key for key in own if own[key] == config.get(key)])

    best = max(words("sampler"), key=shared)
    return best if shared(best) else str(config.get("_target_", "unknown")).rpartition(".")[2]


def refusal(part: Sampler | Prediction, noise_schedule: NoiseSchedule) -> str | None:
    """Return the reason why a sampler or prediction rejects a noise schedule; None if accepted."""
    try:
        part.check(noise_schedule)
    except UserError as error:
        return str(error)
    return None

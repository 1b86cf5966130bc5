"""The grid of sampler settings to compare: samplers x spacings x numbers of steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_lab.config.groups import make_sampler, sampler_config, spacings, words
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import NoiseSchedule, Sampler
from diffusion_lab.diffusion.samplers.scheduler_options import SPACINGS
from diffusion_lab.errors import UserError, unknown_name
from diffusion_lab.modules.contracts import check_range

DEFAULT = ("blend", "heun", "ddim", "dpm_solver", "unipc", "euler_ancestral")
"""First- and second-order ODE solvers, the usual multistep solvers, an ancestral sampler."""
PIXELS = ValueRange("zero_one")


@dataclass(frozen=True)
class SamplerSetting:
    """A sampler with its timestep spacing and number of steps."""

    word: str
    """Name of the sampler, as in sampler=<name>."""
    spacing: str | None
    """Timestep spacing; None for the sampler's default."""
    num_steps: int
    sampler: Sampler

    @property
    def curve(self) -> str:
        """Name of a curve over the number of steps: sampler and spacing, "unipc leading"."""
        return f"{self.word} {self.spacing}" if self.spacing else self.word

    @property
    def name(self) -> str:
        """Name of the setting: "unipc leading 10"."""
        return f"{self.curve} {self.num_steps}"


def make_settings(
    samplers: Sequence[str] | None,
    asked_spacings: Sequence[str] | None,
    num_steps: Sequence[int],
    noise_schedule: NoiseSchedule,
    value_range: ValueRange = PIXELS,
) -> tuple[list[SamplerSetting], dict[str, str]]:
    """Build every compatible combination of sampler, spacing and number of steps.

    Args:
        samplers: names of samplers; None for DEFAULT without the incompatible ones.
        asked_spacings: timestep spacings for the samplers that have the option; None for each
            sampler's default.
        num_steps: numbers of steps, at least 1.
        noise_schedule: the schedule that the samplers must support.
        value_range: that of the data; samplers do not clip data that are no pixels.

    Returns:
        The settings, and the incompatible ones: name -> reason.

    Raises:
        UserError: for an unknown name, and for an incompatible sampler in `samplers`.

    """
    for asked in asked_spacings or ():
        if asked not in SPACINGS:
            raise UserError(unknown_name("spacings", asked, SPACINGS))
    for word in samplers or ():
        if word not in words("sampler"):
            raise UserError(unknown_name("samplers", word, words("sampler")))

    def unclipped(word: str) -> dict[str, bool]:
        clips = not value_range.bounded and "clip_sample" in sampler_config(word)
        return {"clip_sample": False} if clips else {}

    cells: list[SamplerSetting] = []
    skipped: dict[str, str] = {}
    for word in dict.fromkeys(samplers or DEFAULT):
        own: tuple[str | None, ...] = (None,)
        for spacing in asked_spacings if asked_spacings and spacings(word) != own else own:
            for steps in num_steps:
                name = " ".join(filter(None, (word, spacing, str(steps))))
                try:
                    sampler = make_sampler(word, spacing, num_steps=steps, **unclipped(word))
                    sampler.check(noise_schedule)
                    check_range(sampler, value_range)
                except UserError as error:
                    if samplers:
                        raise UserError(
                            f"the sampler setting '{name}' cannot be used: {error}; or leave out "
                            f"{word} in samplers="
                        ) from error
                    skipped[name] = str(error)
                else:
                    cells.append(SamplerSetting(word, spacing, steps, sampler))
    if asked_spacings and not any(cell.spacing for cell in cells):
        raise UserError(
            "spacings= has no effect, because none of these samplers has a timestep spacing: "
            "leave out spacings="
        )
    if not cells:
        raise UserError(
            "none of the default samplers is compatible with this run and num_steps= "
            f"({next(iter(skipped.values()))}): type other samplers=, or other num_steps="
        )
    return cells, skipped

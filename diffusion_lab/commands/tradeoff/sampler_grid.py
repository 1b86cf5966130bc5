"""The samplers that are weighed against each other: words x spacings x numbers of steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_lab.config.groups import make_sampler, spacings, words
from diffusion_lab.config.unknown_keys import unknown_name
from diffusion_lab.diffusion import NoiseSchedule, Sampler
from diffusion_lab.diffusion.samplers.scheduler_options import SPACINGS
from diffusion_lab.errors import UserError

DEFAULT = ("blend", "heun", "ddim", "dpm_solver", "unipc", "euler_ancestral")
"""Deterministic first and second order, the usual multistep solvers, an ancestral one."""


@dataclass(frozen=True)
class SamplerSetting:
    """One way to draw."""

    word: str
    spacing: str | None
    """None: the sampler's own."""
    num_steps: int
    sampler: Sampler

    @property
    def curve(self) -> str:
        """What it has in common with those of other numbers of steps."""
        return f"{self.word} {self.spacing}" if self.spacing else self.word

    @property
    def name(self) -> str:
        """Its own."""
        return f"{self.curve} {self.num_steps}"


def make_settings(
    samplers: Sequence[str] | None,
    asked_spacings: Sequence[str] | None,
    num_steps: Sequence[int],
    noise_schedule: NoiseSchedule,
) -> tuple[list[SamplerSetting], dict[str, str]]:
    """Build every combination that makes sense.

    Args:
        samplers: words; None for DEFAULT, of which those that do not fit are left out.
        asked_spacings: for the samplers that take one; None for each one's own.
        num_steps: from 1 on.
        noise_schedule: what they have to walk.

    Returns:
        The cells, and of those left out the reason by their name.

    Raises:
        UserError: for an unknown word, and for a sampler that was named and does not fit.

    """
    for asked in asked_spacings or ():
        if asked not in SPACINGS:
            raise UserError(f"spacings={asked}: choose from {', '.join(SPACINGS)}")
    for word in samplers or ():
        if word not in words("sampler"):
            raise UserError(unknown_name("samplers", word, words("sampler")))
    cells: list[SamplerSetting] = []
    skipped: dict[str, str] = {}
    for word in dict.fromkeys(samplers or DEFAULT):
        own: tuple[str | None, ...] = (None,)
        for spacing in asked_spacings if asked_spacings and spacings(word) != own else own:
            for steps in num_steps:
                name = " ".join(filter(None, (word, spacing, str(steps))))
                try:
                    sampler = make_sampler(word, spacing, num_steps=steps)
                    sampler.check(noise_schedule)
                except UserError as error:
                    if samplers:
                        raise UserError(f"{name} steps: {error}; or leave it out") from error
                    skipped[name] = str(error)
                else:
                    cells.append(SamplerSetting(word, spacing, steps, sampler))
    if asked_spacings and not any(cell.spacing for cell in cells):
        raise UserError("spacings= changes nothing: none of these samplers takes a spacing")
    if not cells:
        raise UserError(f"no sampler fits: {next(iter(skipped.values()))}")
    return cells, skipped

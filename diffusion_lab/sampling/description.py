"""One-line descriptions of the settings and the cost of sampling."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_lab.config.groups import chosen_sampler_word
from diffusion_lab.diffusion import Sampler
from diffusion_lab.diffusion.guidance import EVERYWHERE
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.sampling.progress import times


def planned(
    config: Mapping[str, Any],
    sampler: Sampler,
    conditionings: Sequence[Conditioning],
    module: DiffusionModule,
    image_shape: tuple[int, int, int],
) -> str:
    """Return a line with the sampling overrides and the NFE per image at each guidance scale.

    NFE (network evaluations) are counted without running the network, so the line can be printed
    before sampling. `config` is the sampler's configuration.
    """
    schedule = module.noise_schedule
    evaluations = [
        sum(conditioning.network_calls(sampler, schedule, image_shape))
        for conditioning in conditionings
    ]
    return (
        f"{sampling_words(config, sampler, conditionings)}; NFE {', '.join(map(str, evaluations))}"
    )


def work_line(
    num_samples: int, config: Mapping[str, Any], sampler: Sampler, num_scales: int = 1
) -> str:
    """Return a line such as "sampling 64 images with ddim in 50 steps", for the user.

    `config` is the sampler's configuration, `num_scales` the number of guidance scales.
    """
    several = f" at each of {num_scales} guidance scales" if num_scales > 1 else ""
    return (
        f"sampling {times(num_samples, 'image')}{several} with {chosen_sampler_word(config)} in "
        f"{times(sampler.num_steps, 'step')}"
    )


def sampling_words(
    config: Mapping[str, Any], sampler: Sampler, conditionings: Sequence[Conditioning]
) -> str:
    """Return overrides such as sampler=unipc sampler.num_steps=5 guidance_scale=1.25.

    `config` is the sampler's configuration. The guidance scales of all `conditionings` are listed;
    the other settings of the conditionings must be equal.
    """
    scales = ",".join(f"{each.guidance_scale:g}" for each in conditionings)
    overrides = [
        f"sampler={chosen_sampler_word(config)}",
        f"sampler.num_steps={sampler.num_steps}",
        f"guidance_scale={scales}",
    ]
    low, high = conditionings[0].interval
    if (low, high) != EVERYWHERE:
        overrides.append(f"guidance_interval={low:g},{high:g}")
    return " ".join(overrides)

"""Options of diffusers' schedulers that a sampler accepts, each of which changes the samples.

A scheduler of diffusers also takes keywords that it ignores, that only make sense with a model
trained another way, or that contradict the noise schedule of the run. Such keywords are rejected
with the reason, because the samples would not be those that the user expects.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_lab.errors import UserError

OF_THE_NOISE_SCHEDULE = frozenset(
    {
        "beta_end",
        "beta_schedule",
        "beta_start",
        "num_train_timesteps",
        "prediction_type",
        "rescale_betas_zero_snr",
        "trained_betas",
    }
)
"""Settings of the training, which a sampler cannot choose."""
REJECTED = {
    "final_sigmas_type": "samples always end on the clean image",
    "set_alpha_to_one": "samples always end on the clean image",
    "stochastic_sampling": "adding fresh noise to each prediction is correct for consistency "
    "models only, use sampler=reverse_sde",
    "use_dynamic_shifting": "dynamic shifting needs the size of latent images, use sampler.shift=",
}
"""Reason for each rejected option; a rejected option that is not listed here has no effect."""
SIGMA_GRIDS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
"""Options that choose the noise levels of the steps; diffusers allows one of them at a time."""
SPACINGS = ("leading", "linspace", "trailing")


@dataclass(frozen=True)
class Option:
    """Valid values of an option, and the settings without which it has no effect."""

    words: tuple[str, ...] = ()
    """The allowed words; empty for a number or for true and false."""
    above: float | None = None
    """For a number: its lower limit, excluded; None for true and false."""
    integer: bool = False
    most: float = math.inf
    """For a number: its upper limit, included."""
    needs: tuple[tuple[str, Any], ...] = ()
    """Pairs (option, value), one of which must be set for this option to have an effect."""

    def expected(self) -> str:
        """Describe the valid values for an error message, such as "a number above 0"."""
        if self.words:
            return f"one of {list(self.words)}"
        if self.above is None:
            return "true or false"
        if self.integer:
            least = int(self.above) + 1
            if self.most == math.inf:
                return f"a whole number of at least {least}"
            return f"a whole number from {least} to {int(self.most)}"
        upper = "" if self.most == math.inf else f", at most {self.most:g}"
        return f"a number above {self.above:g}{upper}"

    def allows(self, value: Any) -> bool:
        """Return True if the value is valid."""
        if self.words:
            return value in self.words
        if self.above is None:
            return isinstance(value, bool)
        kinds = (int,) if self.integer else (int, float)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        return is_number and self.above < value <= self.most and math.isfinite(value)


def _if_any(options: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, True) for name in options)


_THRESHOLDING = {
    "thresholding": Option(),
    "dynamic_thresholding_ratio": Option(above=0, most=1, needs=(("thresholding", True),)),
    "sample_max_value": Option(above=1, needs=(("thresholding", True),)),
}
_CLIPPING = {
    "clip_sample": Option(),
    "clip_sample_range": Option(above=0, needs=(("clip_sample", True),)),
}
_LEADING = {"steps_offset": Option(above=0, integer=True, needs=(("timestep_spacing", "leading"),))}
_GRIDS = dict.fromkeys(SIGMA_GRIDS[:3], Option())
_FLOW = {
    "use_flow_sigmas": Option(),
    "flow_shift": Option(above=0, needs=(("use_flow_sigmas", True),)),
}
_ORDER = {"solver_order": Option(above=0, most=3, integer=True)}
_LOWER_ORDER = {"lower_order_final": Option(needs=(("solver_order", 3),))}
_SECOND_ORDER = {"solver_type": Option(words=("midpoint", "heun"), needs=(("solver_order", 2),))}
_GRID_ENDS = {
    "sigma_min": Option(above=0, needs=_if_any(SIGMA_GRIDS[:3])),
    "sigma_max": Option(above=0, needs=_if_any(SIGMA_GRIDS[:3])),
}
_EDM = {
    "sigma_min": Option(above=0),
    "sigma_max": Option(above=0),
    "sigma_schedule": Option(words=("karras", "exponential")),
    "rho": Option(above=0, needs=(("sigma_schedule", "karras"),)),
}

OPTIONS: dict[str, dict[str, Option]] = {
    "DDPMScheduler": {
        # not fixed_large_log, for which diffusers takes the square root of a logarithm, and not
        # "learned" and "learned_range", which need a network with twice the channels
        "variance_type": Option(words=("fixed_small", "fixed_small_log", "fixed_large")),
        **_CLIPPING,
        **_THRESHOLDING,
        **_LEADING,
    },
    "DDIMScheduler": _CLIPPING | _THRESHOLDING | _LEADING,
    "DPMSolverMultistepScheduler": {
        "algorithm_type": Option(
            words=("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
        ),
        **_ORDER,
        **_SECOND_ORDER,
        **_LOWER_ORDER,
        **_GRIDS,
        "use_lu_lambdas": Option(),
        **_FLOW,
        **_THRESHOLDING,
        **_LEADING,
    },
    "UniPCMultistepScheduler": {
        "solver_order": Option(above=0, integer=True),
        "solver_type": Option(words=("bh1", "bh2")),
        "predict_x0": Option(),
        **_GRIDS,
        **_FLOW,
        **_THRESHOLDING,
        **_LEADING,
    },
    "DEISMultistepScheduler": _ORDER | _LOWER_ORDER | _GRIDS | _FLOW | _LEADING,
    "EulerDiscreteScheduler": _GRIDS | _GRID_ENDS | _LEADING,
    "EulerAncestralDiscreteScheduler": _LEADING,
    "HeunDiscreteScheduler": _CLIPPING | _GRIDS | _LEADING,
    "FlowMatchEulerDiscreteScheduler": {
        "shift": Option(above=0),
        "shift_terminal": Option(above=0, most=0.999),
        **_GRIDS,
    },
    "FlowMatchHeunDiscreteScheduler": {"shift": Option(above=0)},
    "EDMEulerScheduler": _EDM,
    "EDMDPMSolverMultistepScheduler": {
        **_EDM,
        "algorithm_type": Option(words=("dpmsolver++", "sde-dpmsolver++")),
        **_ORDER,
        **_SECOND_ORDER,
        **_LOWER_ORDER,
        **_THRESHOLDING,
    },
}
"""The accepted options of each supported scheduler."""


def clips(scheduler_class: type, config: Mapping[str, Any]) -> bool:
    """Return True if a scheduler with these options clips estimates of the clean images."""
    parameters = inspect.signature(scheduler_class).parameters
    return any(
        config.get(name, name in parameters and parameters[name].default)
        for name in ("clip_sample", "thresholding")
    )


def check_options(scheduler_class: type, config: Mapping[str, Any]) -> None:
    """Check the options of a scheduler, except `timestep_spacing`, which the sampler checks.

    Raises UserError for an option that is unknown, belongs to the noise schedule, has no effect
    with the other settings, or has an invalid value.
    """
    name = scheduler_class.__name__
    options = OPTIONS[name]
    parameters = inspect.signature(scheduler_class).parameters
    settings = {key: parameter.default for key, parameter in parameters.items()} | dict(config)
    for key, value in config.items():
        if key == "timestep_spacing":
            continue
        if key in OF_THE_NOISE_SCHEDULE:
            raise UserError(
                f"sampler.{key}={_typed(value)}: the noise schedule and prediction of the run set "
                f"{key}; leave out sampler.{key}="
            )
        if key in parameters and value == parameters[key].default:
            continue  # the default, which a sampler's yaml file may state
        if key not in options:
            reason = REJECTED.get(key, "it changes nothing in a sampler")
            raise UserError(
                f"sampler.{key}={_typed(value)} is not an option of {name}: {reason}; choose from "
                f"{sorted(options)}"
            )
        option = options[key]
        if not option.allows(value):
            raise UserError(f"sampler.{key}={_typed(value)}: expected {option.expected()}")
        if option.needs and all(settings.get(other) != wanted for other, wanted in option.needs):
            raise UserError(
                f"sampler.{key}={_typed(value)} changes nothing without "
                + " or ".join(f"sampler.{other}={_typed(wanted)}" for other, wanted in option.needs)
            )
    chosen = [grid for grid in (*SIGMA_GRIDS, "use_flow_sigmas") if settings.get(grid)]
    if len(chosen) > 1:
        raise UserError(
            f"sampler.{chosen[0]} and sampler.{chosen[1]} each choose the noise levels of the "
            "steps: leave out one of them"
        )


def _typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

"""Settings of an evaluation.json: what must agree, and the options that evaluate.py needs."""

from collections.abc import Callable
from typing import Any

from diffusion_lab.config.groups import sampler_word
from diffusion_lab.evaluation.features.extractor import DINOV2, INCEPTION
from diffusion_lab.evaluation.features.load import shipped_for, shipped_versions

MEASURES: dict[str, Callable[[dict[str, Any]], str]] = {
    "extractor": lambda e: f"{e['extractor']['name']} ({str(e['extractor']['sha256'])[:8]})",
    "reference": lambda e: (
        f"{e['reference']['data']} "
        + (f"({e['reference']['n']} images)" if e["reference"]["n"] else "(moments)")
    ),
    "num_samples": lambda e: str(e["num_samples"]),
    "NFE": lambda e: str(e["num_calls"]),
}
"""Functions that read the properties in which compared evaluations must agree, by name."""


def settings_words(evaluation: dict[str, Any], num_steps: int | None = None) -> str:
    """Return the settings of an evaluation as options of evaluate.py.

    `num_steps` replaces the evaluation's own number of steps.
    """
    sampler = evaluation["sampler"]
    return (
        f"sampler={sampler_word(sampler)} "
        f"sampler.num_steps={num_steps or sampler.get('num_steps')} "
        f"{others_words(evaluation).strip()}"
    )


def others_words(evaluation: dict[str, Any], num_samples: int | None = None) -> str:
    """Return the options besides the sampler: num_samples=, unless it is given, and extractor=."""
    number = f" num_samples={evaluation['num_samples']}" if num_samples is None else ""
    return number + _extractor_word(evaluation)


def words_like(wanted: dict[str, Any], own: dict[str, Any]) -> str | None:
    """Return the options that evaluate a run like `wanted`; `own` is its evaluation so far.

    Guidance takes two network evaluations in a step. If only one of the two evaluations is guided,
    the number of steps is the one with the same NFE; None if there is no such number.
    """
    steps, of_wanted, of_own = wanted["sampler"].get("num_steps"), _branches(wanted), _branches(own)
    if of_wanted == of_own:
        return settings_words(wanted)
    one_call_a_step = wanted["num_calls"] == of_wanted * steps
    if not one_call_a_step or steps * of_wanted % of_own:
        return None
    return settings_words(wanted, steps * of_wanted // of_own)


def _branches(evaluation: dict[str, Any]) -> int:
    """Return the network evaluations per denoised image: two with guidance, else one."""
    scale = evaluation.get("guidance_scale", 1)
    return 1 if scale == 1 or (scale == 0 and not evaluation.get("autoguidance")) else 2


def _extractor_word(evaluation: dict[str, Any]) -> str:
    """Return ` extractor=<name>`; empty for the extractor that evaluate.py chooses by itself."""
    name, data = evaluation["extractor"]["name"], evaluation["reference"]["data"]
    if name == "coordinates" or name == shipped_for(data):
        return ""
    known = (*shipped_versions(), INCEPTION, DINOV2)
    return f" extractor={name}" if name in known else f" extractor=<folder of {name}>"

"""Check user-defined networks, noise schedules and other parts before a training begins.

docs/extending.md lists the methods, shapes and ranges that are required of each part. Parts that
come with this package are not checked here, because the package's tests check them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import FunctionSampler, NoiseSchedule, Prediction, Sampler, Weighting
from diffusion_lab.diffusion.samplers.base import first_noise, image_generators
from diffusion_lab.errors import UserError
from diffusion_lab.modules.diffusion import DiffusionModule

_POSITIONS = (0.05, 0.5, 0.95)
"""Positions (see NoiseSchedule.at) of the tested times; at 0 and 1 a weight may be infinite."""


def check_contracts(
    module: DiffusionModule, sampler: Sampler, image_shape: tuple[int, int, int]
) -> bool:
    """Try every user-defined part (network, noise schedule, sampler, ...) on a small batch.

    Random states are left unchanged. `image_shape` is (C, H, W). Returns True if there is a
    user-defined part. Raises UserError for the first part that breaks its contract; the message
    names the part and what was expected.
    """
    parts = (module.network, module.noise_schedule, module.prediction, module.weighting, sampler)
    own = {id(part) for part in parts if not _is_of_this_package(part)}
    if not own:
        return False
    training = module.training
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            module.eval()
            if id(module.noise_schedule) in own:
                _check_schedule(module.noise_schedule)
            if id(module.prediction) in own:
                _check_prediction(module.prediction, module.noise_schedule, image_shape)
            if id(module.weighting) in own:
                _check_weighting(module.weighting, module.noise_schedule, module.prediction)
            if id(module.network) in own:
                _check_network(module, image_shape)
            if id(sampler) in own:
                _check_sampler(sampler, module.noise_schedule, image_shape)
        finally:
            module.train(training)
    return True


def check_range(sampler: Sampler, value_range: ValueRange) -> None:
    """Raise UserError for a sampler that clips to the range of pixels, if there is no range."""
    if sampler.clips and not value_range.bounded:
        raise UserError(
            f"{sampler.name} clips to the range of pixels, but these data are "
            f"{value_range.kind}: type sampler.clip_sample=false, and leave out "
            "sampler.thresholding="
        )


def check_sampler(
    sampler: Sampler, noise_schedule: NoiseSchedule, image_shape: tuple[int, int, int]
) -> None:
    """Try a user-defined sampler on two images of `image_shape` (C, H, W).

    Raises UserError unless the samples are finite and have the shape of the noise.
    """
    if not _is_of_this_package(sampler):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            _check_sampler(sampler, noise_schedule, image_shape)


def _check_sampler(
    sampler: Sampler, noise_schedule: NoiseSchedule, image_shape: tuple[int, int, int]
) -> None:
    shape = (2, *image_shape)
    generators = image_generators(0, 0, 2)
    noise = first_noise(noise_schedule, torch.Size(image_shape), generators)

    def walk() -> list[Tensor]:
        steps = sampler.steps(lambda x_t, t: 0 * x_t, noise_schedule, noise, generators)
        return [step.x_next for step in steps]

    images = _tried("sampler", sampler, "steps", walk)
    if not images:
        raise _broken("sampler", sampler, "the method steps yields nothing", "at least one Step")
    _check_tensor("sampler", sampler, "x_next of a step", images[-1], shape)


def _is_of_this_package(part: object) -> bool:
    # by the module's name, so that a subclass in the user's file counts as user-defined
    if isinstance(part, FunctionSampler):
        return _is_ours(_function_of(part).__module__)
    return _is_ours(type(part).__module__)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "diffusion_lab"


def _function_of(sampler: FunctionSampler) -> Any:
    function: Any = sampler.function
    while hasattr(function, "func"):  # functools.partial, from a configuration
        function = function.func
    return function


def _times(noise_schedule: NoiseSchedule) -> Tensor:
    return noise_schedule.at(torch.tensor(_POSITIONS))


def _check_schedule(schedule: NoiseSchedule) -> None:
    def tried(name: str) -> Tensor:
        return _tried("noise_schedule", schedule, name, lambda: getattr(schedule, name)(t))

    t = _tried("noise_schedule", schedule, "at", lambda: _times(schedule))
    shape = (len(_POSITIONS),)
    _check_tensor("noise_schedule", schedule, "at", t, shape)
    found = {name: tried(name) for name in ("alpha", "sigma", "network_time")}
    for name, value in found.items():
        _check_tensor("noise_schedule", schedule, name, value, shape)
    ratio = found["sigma"] / found["alpha"]
    if found["sigma"].min() < 0 or found["alpha"].min() < 0 or (ratio.diff() <= 0).any():
        raise _broken(
            "noise_schedule",
            schedule,
            f"sigma / alpha is {[round(r, 4) for r in ratio.tolist()]} at positions {_POSITIONS}",
            "a ratio that grows with t, and no negative alpha or sigma",
        )
    time = found["network_time"]
    if time.min() < 0 or time.max() > 1000:
        raise _broken(
            "noise_schedule",
            schedule,
            f"network_time ranges from {time.min():g} to {time.max():g}",
            "numbers from 0 to 1000",
        )


def _check_prediction(
    prediction: Prediction, noise_schedule: NoiseSchedule, image_shape: tuple[int, int, int]
) -> None:
    if not isinstance(getattr(prediction, "name", None), str):
        raise _broken(
            "prediction", prediction, "its name is no string", 'a line such as name = "mine"'
        )
    t = _times(noise_schedule)
    alpha, sigma = noise_schedule.alpha(t), noise_schedule.sigma(t)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand((len(t), *image_shape), generator=generator)
    noise = noise_schedule.draw_noise(x0, generator)
    x_t = noise_schedule.add_noise(x0, noise, t)
    target = _tried(
        "prediction", prediction, "target", lambda: prediction.target(x0, noise, alpha, sigma)
    )
    _check_tensor("prediction", prediction, "target", target, x0.shape)
    clean = _tried(
        "prediction", prediction, "to_clean", lambda: prediction.to_clean(target, x_t, alpha, sigma)
    )
    _check_tensor("prediction", prediction, "to_clean", clean, x0.shape)
    worst = (clean - x0).abs().max().item()
    if worst > 0.01:
        raise _broken(
            "prediction",
            prediction,
            f"to_clean of the target differs from x0 by {worst:.3g}",
            "x0 itself",
        )
    weight = _tried(
        "prediction", prediction, "x0_weight", lambda: prediction.x0_weight(alpha, sigma)
    )
    _check_tensor("prediction", prediction, "x0_weight", weight, (len(t),))


def _check_weighting(
    weighting: Weighting, noise_schedule: NoiseSchedule, prediction: Prediction
) -> None:
    t = _times(noise_schedule)
    alpha, sigma = noise_schedule.alpha(t), noise_schedule.sigma(t)
    losses = _tried(
        "weighting",
        weighting,
        "weight",
        lambda: weighting(torch.ones_like(t), alpha, sigma, prediction),
    )
    _check_tensor("weighting", weighting, "weight", losses, (len(t),))


def _check_network(module: DiffusionModule, image_shape: tuple[int, int, int]) -> None:
    t = _times(module.noise_schedule)
    x_t = torch.zeros((len(t), *image_shape))
    labels = None
    if (null := module.num_classes) is not None:
        labels = torch.tensor([0, null - 1, null])
    try:
        output = _tried("network", module.network, "forward", lambda: module(x_t, t, labels))
    except UserError as error:
        hint = "" if null is None else f"; labels are 0 to {null}, and {null} is the null class"
        raise UserError(f"{error}{hint}") from error
    _check_tensor("network", module.network, "forward", output, x_t.shape)
    if module.augment is not None:
        values = torch.zeros(len(t), module.augment.num_values)
        output = _tried(
            "network", module.network, "forward", lambda: module(x_t, t, labels, values)
        )
        _check_tensor("network", module.network, "forward with a condition", output, x_t.shape)


def _tried(group: str, part: object, method: str, call: Callable[[], Any]) -> Any:
    """Return call(); an exception becomes a one-line UserError that names the part and `method`."""
    try:
        return call()
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise UserError(
            f"{group}: {_name(part)}.{method} failed: {type(error).__name__}: {reason}"
        ) from error


def _check_tensor(group: str, part: object, method: str, value: Any, shape: Sequence[int]) -> None:
    if not isinstance(value, Tensor):
        raise _broken(group, part, f"{method} gives a {type(value).__name__}", "a tensor")
    if tuple(value.shape) != tuple(shape):
        raise _broken(
            group, part, f"{method} gives the shape {tuple(value.shape)}", f"{tuple(shape)}"
        )
    if not value.is_floating_point():
        raise _broken(group, part, f"{method} gives {value.dtype}", "floating-point numbers")
    if not value.isfinite().all():
        raise _broken(group, part, f"{method} gives nan or inf", "finite numbers")


def _broken(group: str, part: object, found: str, expected: str) -> UserError:
    return UserError(f"{group}: {_name(part)}: {found}, expected {expected}; see docs/extending.md")


def _name(part: object) -> str:
    if isinstance(part, FunctionSampler):
        return f"{_function_of(part).__module__}.{part.name}"
    return f"{type(part).__module__}.{type(part).__name__}"

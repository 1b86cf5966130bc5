"""Check user-defined networks, noise schedules and other parts before a training begins.

docs/extending.md lists the methods, shapes and ranges that are required of each part. Parts that
come with this package are not checked here, because the package's tests check them.
"""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import NoiseSchedule, Prediction, Sampler, Step, Weighting
from diffusion_lab.diffusion.samplers.base import first_noise, image_generators
from diffusion_lab.errors import UserError
from diffusion_lab.modules.diffusion import DiffusionModule
from diffusion_lab.modules.part_errors import (
    broken,
    check_tensor,
    is_of_this_package,
    kind_of,
    name_of,
    tried,
)

log = logging.getLogger(__name__)

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
    own = {id(part) for part in parts if not is_of_this_package(part)}
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
    if not is_of_this_package(sampler):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            _check_sampler(sampler, noise_schedule, image_shape)


def _check_sampler(
    sampler: Sampler, noise_schedule: NoiseSchedule, image_shape: tuple[int, int, int]
) -> None:
    shape = (2, *image_shape)
    generators = image_generators(0, 0, 2)
    noise = first_noise(noise_schedule, torch.Size(image_shape), generators)

    def walk() -> list[Step]:
        steps = sampler.steps(lambda x_t, t: 0 * x_t, noise_schedule, noise, generators)
        if not isinstance(steps, Iterable):
            raise broken("sampler", sampler, f"steps returns {kind_of(steps)}", "yield Step(...)")
        return list(steps)

    steps = tried("sampler", sampler, "steps", walk)
    if not steps:
        raise broken("sampler", sampler, "the method steps yields nothing", "at least one Step")
    for step in steps:
        if not isinstance(step, Step):
            raise broken("sampler", sampler, f"the method steps yields {kind_of(step)}", "a Step")
    check_tensor("sampler", sampler, "x_next of a step", steps[-1].x_next, shape)


def _times(noise_schedule: NoiseSchedule) -> Tensor:
    return noise_schedule.at(torch.tensor(_POSITIONS))


def _check_schedule(schedule: NoiseSchedule) -> None:
    def called(name: str) -> Tensor:
        return tried("noise_schedule", schedule, name, lambda: getattr(schedule, name)(t))

    t = tried("noise_schedule", schedule, "at", lambda: _times(schedule))
    shape = (len(_POSITIONS),)
    check_tensor("noise_schedule", schedule, "at", t, shape)
    found = {name: called(name) for name in ("alpha", "sigma", "network_time")}
    for name, value in found.items():
        check_tensor("noise_schedule", schedule, name, value, shape, single=True)
    ratio = found["sigma"] / found["alpha"]
    if found["sigma"].min() < 0 or found["alpha"].min() < 0 or (ratio.diff() <= 0).any():
        raise broken(
            "noise_schedule",
            schedule,
            f"sigma / alpha is {[round(r, 4) for r in ratio.tolist()]} at positions {_POSITIONS}",
            "a ratio that grows with t, and no negative alpha or sigma",
        )
    time = found["network_time"]
    if time.min() < 0 or time.max() > 1000:
        raise broken(
            "noise_schedule",
            schedule,
            f"network_time ranges from {time.min():g} to {time.max():g}",
            "numbers from 0 to 1000",
        )


def _check_prediction(
    prediction: Prediction, noise_schedule: NoiseSchedule, image_shape: tuple[int, int, int]
) -> None:
    if not isinstance(getattr(prediction, "name", None), str):
        raise broken(
            "prediction", prediction, "its name is no string", 'a line such as name = "mine"'
        )
    t = _times(noise_schedule)
    alpha, sigma = noise_schedule.alpha(t), noise_schedule.sigma(t)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand((len(t), *image_shape), generator=generator)
    noise = noise_schedule.draw_noise(x0, generator)
    x_t = noise_schedule.add_noise(x0, noise, t)
    target = tried(
        "prediction", prediction, "target", lambda: prediction.target(x0, noise, alpha, sigma)
    )
    check_tensor("prediction", prediction, "target", target, x0.shape)
    clean = tried(
        "prediction", prediction, "to_clean", lambda: prediction.to_clean(target, x_t, alpha, sigma)
    )
    check_tensor("prediction", prediction, "to_clean", clean, x0.shape)
    worst = (clean - x0).abs().max().item()
    if worst > 0.01:
        raise broken(
            "prediction",
            prediction,
            f"to_clean of the target differs from x0 by {worst:.3g}",
            "x0 itself",
        )
    weight = tried(
        "prediction", prediction, "x0_weight", lambda: prediction.x0_weight(alpha, sigma)
    )
    check_tensor("prediction", prediction, "x0_weight", weight, (len(t),))


def _check_weighting(
    weighting: Weighting, noise_schedule: NoiseSchedule, prediction: Prediction
) -> None:
    t = _times(noise_schedule)
    alpha, sigma = noise_schedule.alpha(t), noise_schedule.sigma(t)
    losses = tried(
        "weighting",
        weighting,
        "weight",
        lambda: weighting(torch.ones_like(t), alpha, sigma, prediction),
    )
    check_tensor("weighting", weighting, "weight", losses, (len(t),))
    if type(weighting).forward is not Weighting.forward:  # such as error / exp(u) + u
        return
    t = noise_schedule.at(torch.linspace(0.01, 0.99, 99))
    alpha, sigma = noise_schedule.alpha(t), noise_schedule.sigma(t)
    weights = tried(
        "weighting", weighting, "weight", lambda: weighting.weight(alpha, sigma, prediction)
    )
    check_tensor("weighting", weighting, "weight", weights, (len(t),))
    if weights.min() < 0 or weights.max() == 0:
        raise broken(
            "weighting",
            weighting,
            f"weight ranges from {weights.min():g} to {weights.max():g}",
            "no negative weight, and one above 0",
        )


def _check_network(module: DiffusionModule, image_shape: tuple[int, int, int]) -> None:
    network = module.network
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise broken("network", network, "no parameter can be trained", "at least one")
    t = _times(module.noise_schedule)
    x_t = torch.zeros((len(t), *image_shape))
    labels, hint = None, ""
    if (null := module.num_classes) is not None:
        labels = torch.tensor([0, null - 1, null])
        hint = f"; labels are 0 to {null}, and {null} is the null class"

    def check_output(_network: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            check_tensor("network", network, "forward", output, x_t.shape, single=True)
            return
        expected = "a tensor"
        if hasattr(output, "sample") or isinstance(output, tuple):
            expected += " (for a model of diffusers: return its .sample)"
        raise broken("network", network, f"forward returns {kind_of(output)}", expected)

    hook = network.register_forward_hook(check_output)
    try:
        with torch.enable_grad():
            output = tried("network", network, "forward", lambda: module(x_t, t, labels), hint)
        if not output.requires_grad:
            raise broken(
                "network",
                network,
                "forward gives a tensor without gradient",
                "one that depends on the parameters, without .detach() or torch.no_grad()",
            )
        if module.augment is not None:
            values = torch.zeros(len(t), module.augment.num_values)
            tried("network", network, "forward", lambda: module(x_t, t, labels, values), hint)
    finally:
        hook.remove()
    if null is not None and _ignores_labels(module, x_t, t, null):
        log.warning(
            "network: %s.forward gives the same images for every label, so model.num_classes=%d "
            "has no effect: use `labels`, or leave out model.num_classes=",
            name_of(network),
            null,
        )


def _ignores_labels(module: DiffusionModule, x_t: Tensor, t: Tensor, null: int) -> bool:
    """Return True if class 0 and the null class give the same output.

    A network may begin with zeros where labels come in, so noise is added to its parameters.
    """
    noisy = {
        name: value + 0.1 * torch.randn_like(value)
        for name, value in module.named_parameters()
        if value.is_floating_point()
    }
    outputs = [
        functional_call(module, noisy, (x_t, t, torch.full((len(t),), label)))
        for label in (0, null)
    ]
    return torch.equal(*outputs)

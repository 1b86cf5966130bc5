"""The cost of a model: parameters, FLOPs and seconds of a training step."""

import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffusion_lab.modules import DiffusionModule

LARGEST_STEP = 100e9
"""Largest FLOP count of a timed forward pass, for a few seconds a step on two CPU cores."""


def cost(module: DiffusionModule, shape: tuple[int, int, int], batch_size: int) -> dict[str, float]:
    """Count parameters and the FLOPs of a forward pass per image, and time a training step.

    `shape` is (C, H, W). Returns "parameters", "flops", "step_seconds" and "timed_images". For a
    large network the step is timed with fewer images, and "step_seconds" is scaled to `batch_size`.
    """
    x = torch.zeros(1, *shape)
    t = module.noise_schedule.at(torch.full((1,), 0.5))
    # the FLOPs of the CPU's fused attention kernel are not counted
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.no_grad(),
    ):
        module(x, t)
    flops = counter.get_total_flops()
    count = min(batch_size, max(1, int(LARGEST_STEP / max(flops, 1))))
    x0 = torch.zeros(count, *shape)
    noise = torch.zeros_like(x0)
    times = module.noise_schedule.at(torch.full((count,), 0.5))
    optimizer = module.make_optimizer(module.parameters())
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        _, losses = module.losses(x0, noise, times)
        losses.mean().backward()
        passed = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        # the optimizer's time does not depend on the number of images
        own = time.perf_counter() - passed
        seconds.append((passed - began) * batch_size / count + own)
    return {
        "parameters": sum(p.numel() for p in module.network.parameters()),
        "flops": flops,
        "step_seconds": min(seconds[1:]),  # the first compiles and allocates
        "timed_images": count,
    }

"""The cost of a model: parameters, FLOPs and seconds of a training step."""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from diffusion_lab.modules import DiffusionModule


def cost(module: DiffusionModule, shape: tuple[int, int, int], batch_size: int) -> dict[str, float]:
    """Measure parameters, FLOPs of a forward pass per image and seconds of a training step."""
    x = torch.zeros(1, *shape)
    t = module.noise_schedule.at(torch.full((1,), 0.5))
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        module(x, t)
    x0 = torch.zeros(batch_size, *shape)
    noise = torch.zeros_like(x0)
    times = module.noise_schedule.at(torch.full((batch_size,), 0.5))
    optimizer = module.make_optimizer(module.parameters())
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        optimizer.zero_grad()
        _, losses = module.losses(x0, noise, times)
        losses.mean().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return {
        "parameters": sum(p.numel() for p in module.network.parameters()),
        "flops": flops.get_total_flops(),
        "step_seconds": min(seconds[1:]),  # the first compiles and allocates
    }

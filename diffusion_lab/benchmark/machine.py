"""Peak speed and description of the machine, to compare results from different machines."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from diffusion_lab.benchmark.timing import timed

SIDE = 1024  # of the square matrices


def matmul_rate(device: torch.device, seconds: float) -> float:
    """Repeat float32 matrix products for `seconds`; return the median FLOP/s."""
    a, b = torch.rand(2, SIDE, SIDE, device=device)
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while not rates or time.perf_counter() < end:
        rates.append(2 * SIDE**3 / timed(lambda: torch.mm(a, b, out=out), device))
    return statistics.median(rates)


def flops(work: Callable[[], object]) -> int:
    """Run `work`; count the FLOPs of its matrix products and convolutions, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def machine(device: torch.device) -> dict[str, Any]:
    """Return the machine's device, cores, threads, load and package versions."""
    packages = ("torch", "torchvision", "lightning", "diffusers", "numpy")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "load_average": load,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }

"""What the scripts import when they begin, for the server that forks them."""

import importlib
import pkgutil

import torch

import diffusion_lab.callbacks
import diffusion_lab.commands
import diffusion_lab.config.schema
import diffusion_lab.networks

for _package in (
    diffusion_lab.commands,
    diffusion_lab.callbacks,
    diffusion_lab.networks,
    diffusion_lab.config.schema,
):
    for _module in pkgutil.iter_modules(_package.__path__, f"{_package.__name__}."):
        importlib.import_module(_module.name)

torch.set_num_threads(1)  # a pool of threads would not come along

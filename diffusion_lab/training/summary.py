"""One-line description of a training, its table of results, and its hyperparameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from diffusion_lab.modules import DiffusionModule
from diffusion_lab.system.device import gpu_settings
from diffusion_lab.system.tables import table_text

_COMPARED = (
    "data",
    "network",
    "noise_schedule",
    "prediction",
    "weighting",
    "time_sampling",
    "sampler",
    "optimizer",
    "lr_scheduler",
    "trainer",
)


def headline(module: DiffusionModule, provenance: Mapping[str, Any], trainer: L.Trainer) -> str:
    """Return a line with network, device, precision, data and run folder of a training."""
    parameters = sum(p.numel() for p in module.network.parameters())
    return (
        f"{type(module.network).__name__} with {parameters:,} parameters on "
        f"{_device(module, trainer)}; {provenance['dataset']} ({provenance['source']}), "
        f"{provenance['num_train']:,} images to train on; run folder {trainer.default_root_dir}"
    )


def hyper_parameters(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters for loggers, without the @ in keys, which MLflow rejects."""
    command = dict(config["command"])
    command["choices"] = {k.replace("@", ":"): v for k, v in command["choices"].items()}
    return {**config, "command": command, "provenance": provenance}


def _device(module: DiffusionModule, trainer: L.Trainer) -> str:
    """Describe device, precision and processes, with CPU threads or GPU settings."""
    device, how = trainer.strategy.root_device, ""
    if device.type == "cpu":
        threads = torch.get_num_threads()
        how = f" with {threads} thread{'s' * (threads > 1)}"
    elif device.type == "cuda" and torch.cuda.is_initialized():
        # only then, because a query would initialise CUDA, which must not happen before a fork
        how = f" ({gpu_settings(device, module.memory_format)})"
    several = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
    return f"{device}{how} in {trainer.precision}{several}"


def summary(metrics: Mapping[str, float], trainer: L.Trainer, seconds: float) -> str:
    """Return a table of final metrics, steps, seconds, and the folders of figures and weights."""
    rows = [[name, f"{value:.6g}"] for name, value in metrics.items()]
    rows += [["steps", f"{trainer.global_step:,}"], ["seconds", f"{seconds:.1f}"]]
    for name in ("figures", "checkpoints"):
        folder = Path(trainer.default_root_dir, name)
        if folder.is_dir():
            rows.append([name, str(folder)])
    return table_text("finished", ["what", "value"], rows)


def compared(config: dict[str, Any]) -> dict[str, Any]:
    """Return options and settings as a flat dictionary for TensorBoard's HPARAMS tab.

    Folders are left out, because they differ between runs.
    """
    choices = config["command"]["choices"]
    flat: dict[str, Any] = {"seed": config["seed"]}
    flat |= {group: choices[group] for group in ("model", *_COMPARED)}
    for group in _COMPARED:
        for key, value in config[group].items():
            if not key.startswith("_") and not key.endswith("_dir"):
                flat[f"{group}/{key}"] = value
    return flat

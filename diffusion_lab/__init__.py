"""diffusion_lab: an experiment framework for diffusion models."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["compose_config", "load_run", "train"]


_WHERE = {
    "compose_config": "config.compose",
    "load_run": "runs.load",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    # torch and lightning are imported on first use, so that --help does not wait for them
    if name in _WHERE:
        return getattr(import_module(f"diffusion_lab.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'diffusion_lab' has no attribute {name!r}")

"""diffusion_lab: an experiment framework for diffusion models."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load_run", "train"]


def __getattr__(name: str) -> Any:
    # torch and lightning are imported on first use, so that --help does not wait for them
    if name == "load_run":
        from diffusion_lab.run.load import load_run

        return load_run
    if name == "train":
        from diffusion_lab.run.train import train

        return train
    raise AttributeError(f"module 'diffusion_lab' has no attribute {name!r}")

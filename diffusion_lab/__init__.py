"""An experiment framework for diffusion models.

```python
import diffusion_lab as dl

result = dl.train(dl.compose_config(["model=flow"]))  # -> dl.TrainResult
run = dl.load_run(result.run_dir)  # -> dl.Run
images = run.sample(16, num_steps=10, seed=0)  # uint8 (16, C, H, W)
```

The packages `dl.networks`, `dl.diffusion`, `dl.data` and `dl.figures` hold the building blocks,
which also work without a configuration. Every name is imported on first use, so
`import diffusion_lab` alone does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion_lab import data, diffusion, figures, networks
    from diffusion_lab.config.compose import compose_config
    from diffusion_lab.data.datamodule import ImageDataModule
    from diffusion_lab.modules.diffusion import DiffusionModule
    from diffusion_lab.runs.load import Run, load_run
    from diffusion_lab.training.train import TrainResult, train

__version__ = "0.1.0"
__all__ = [
    "DiffusionModule",
    "ImageDataModule",
    "Run",
    "TrainResult",
    "compose_config",
    "data",
    "diffusion",
    "figures",
    "load_run",
    "networks",
    "train",
]

_PACKAGES = ("data", "diffusion", "figures", "networks")
_FILES = {
    "DiffusionModule": "modules.diffusion",
    "ImageDataModule": "data.datamodule",
    "Run": "runs.load",
    "TrainResult": "training.train",
    "compose_config": "config.compose",
    "load_run": "runs.load",
    "train": "training.train",
}
"""Module, below `diffusion_lab`, that defines each public name."""


def __getattr__(name: str) -> Any:
    # imported on first use, so that --help does not wait for torch
    if name in _PACKAGES:
        return import_module(f"diffusion_lab.{name}")
    if name in _FILES:
        return getattr(import_module(f"diffusion_lab.{_FILES[name]}"), name)
    raise AttributeError(f"module 'diffusion_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

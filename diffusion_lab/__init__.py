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

from typing import TYPE_CHECKING

from diffusion_lab.system.lazy_import import lazy_names

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

_MODULES = {
    "DiffusionModule": "modules.diffusion",
    "ImageDataModule": "data.datamodule",
    "Run": "runs.load",
    "TrainResult": "training.train",
    "compose_config": "config.compose",
    "data": "",
    "diffusion": "",
    "figures": "",
    "load_run": "runs.load",
    "networks": "",
    "train": "training.train",
}
"""Module, below `diffusion_lab`, that defines each public name; "" for a package."""

if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)

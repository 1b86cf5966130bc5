"""The step that a run diverged in, once more: which image, which layer, which gradient."""

import logging
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from diffusion_lab.config.renamed import with_new_names
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.runs.load import build_module
from diffusion_lab.system.system_errors import no_memory
from diffusion_lab.training.components import quieten_lightning

log = logging.getLogger(__name__)


@dataclass
class Replay:
    """What running a step again showed."""

    message: str
    """What the run said."""
    indices: list[int]
    """The batch's images, of the training split."""
    losses: list[float]
    """The loss of each."""
    loss: float
    """Their mean."""
    same: bool
    """Whether it is the run's loss, to the last bit."""
    first: str | None
    """Where the first value that is not finite appeared, None if all are finite."""
    largest_gradient: tuple[str, float]
    """The parameter's name and the absolute value of the element."""
    gradients: list[str]
    """The parameters whose gradient is not finite."""


def replay(file: str | Path, trust: Sequence[str] = ()) -> Replay:
    """Run the step of an anomaly.pt again on the CPU, in the precision of the run.

    Only plain data is read from the file (weights_only), and only this project's classes are made
    from it, and those of the packages in `trust`. Nothing is written. The loss has the same bits
    as the run's if that ran on a CPU with as many threads. Raises UserError for another file.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"replay={file} is no file: give replay=<run folder>/anomaly.pt")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        module = build_module(with_new_names(saved["config"]), trust)
        quieten_lightning()
        with warnings.catch_warnings(action="ignore"):  # 16-mixed becomes bf16-mixed on a CPU
            trainer = L.Trainer(
                accelerator="cpu", precision=saved["precision"], logger=False, barebones=True
            )
        return _run(module, trainer, saved)
    except UserError:
        raise
    except Exception as error:
        if no_memory(error):
            raise
        raise UserError(
            f"replay={file} is damaged or was not written by this project "
            f"({type(error).__name__}): give replay=<run folder>/anomaly.pt"
        ) from error


def _run(module: DiffusionModule, trainer: L.Trainer, saved: Mapping[str, Any]) -> Replay:
    module = cast(DiffusionModule, trainer.precision_plugin.convert_module(module)).train()
    module.load_state_dict(saved["state_dict"])
    x0, noise, t, labels = (saved[name] for name in ("x0", "noise", "t", "labels"))
    indices = saved["indices"].tolist()
    suspects = {
        **{f"the weights {name}": p for name, p in module.named_parameters()},
        **{f"the image train:{i}": image for i, image in zip(indices, x0, strict=True)},
        "the noise": noise,
        "the times": t,
    }
    found = [what for what, value in suspects.items() if not value.isfinite().all()]
    _watch(module.network, found)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(saved["random_state"])
        with trainer.precision_plugin.train_step_context():
            _, losses = module.losses(x0, noise, t, labels)
            loss = losses.mean()
    if not losses.isfinite().all():
        found.append("the loss")
    loss.backward()
    gradients = [n for n, p in module.named_parameters() if not _finite(p.grad)]
    if gradients:
        found.append("the gradient")
    name, value = largest_gradient(module.named_parameters())
    return Replay(
        message=saved["message"],
        indices=indices,
        losses=losses.tolist(),
        loss=loss.item(),
        same=repr(loss.item()) == repr(saved["loss"].item()),  # nan equals nan here
        first=found[0] if found else None,
        largest_gradient=(name, value),
        gradients=gradients,
    )


def largest_gradient(parameters: Iterable[tuple[str, nn.Parameter]]) -> tuple[str, float]:
    """The name and absolute value of the largest element; what is not a number is larger."""
    found = [(name, p.grad.abs().amax().item()) for name, p in parameters if p.grad is not None]
    return max(found, key=lambda pair: (math.isnan(pair[1]), pair[1]))


def _watch(network: nn.Module, found: list[str]) -> None:
    """Let every layer whose output is not finite say so; inner ones come before outer ones."""

    def hook(name: str) -> Any:
        def after(_: nn.Module, inputs: Any, output: Any) -> None:
            if not _finite(output):
                found.append(f"the output of {name}")

        return after

    for name, layer in network.named_modules(prefix="network"):
        layer.register_forward_hook(hook(name))


def _finite(values: Any) -> bool:
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)

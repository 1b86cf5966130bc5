"""Replay a diverged step from anomaly.pt to find the image, layer or gradient at fault."""

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
    """Results of a replayed step."""

    message: str
    """The message that the diverged run printed."""
    indices: list[int]
    """Indices of the batch's images in the training split."""
    losses: list[float]
    """Loss of every image."""
    loss: float
    """Mean of `losses`."""
    same: bool
    """True if the loss has the same bits as in the run."""
    first: str | None
    """Name of the first tensor that is not finite; None if all are finite."""
    largest_gradient: tuple[str, float]
    """Parameter with the largest gradient element, and its absolute value."""
    gradients: list[str]
    """Parameters whose gradient is not finite."""


def replay(file: str | Path, trust: Sequence[str] = ()) -> Replay:
    """Repeat the diverged step saved in an anomaly.pt on the CPU, in the precision of the run.

    The file is read as plain data (weights_only) and may name only classes of this project and of
    the packages in `trust`. Nothing is written. The loss has the same bits as in the run if the run
    used a CPU and the same number of threads. Raises UserError for another kind of file.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"replay={file} is no file: type replay=<run folder>/anomaly.pt")
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
            f"({type(error).__name__}): type replay=<run folder>/anomaly.pt"
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
    not_finite = [what for what, value in suspects.items() if not value.isfinite().all()]
    _record_layers(module.network, not_finite)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(saved["random_state"])
        with trainer.precision_plugin.train_step_context():
            _, losses = module.losses(x0, noise, t, labels, saved.get("augmentation"))
            loss = losses.mean()
    if not losses.isfinite().all():
        not_finite.append("the loss")
    loss.backward()
    gradients = [n for n, p in module.named_parameters() if not _finite(p.grad)]
    if gradients:
        not_finite.append("the gradient")
    name, value = largest_gradient(module.named_parameters())
    return Replay(
        message=saved["message"],
        indices=indices,
        losses=losses.tolist(),
        loss=loss.item(),
        same=repr(loss.item()) == repr(saved["loss"].item()),  # nan equals nan here
        first=not_finite[0] if not_finite else None,
        largest_gradient=(name, value),
        gradients=gradients,
    )


def largest_gradient(parameters: Iterable[tuple[str, nn.Parameter]]) -> tuple[str, float]:
    """Return the parameter with the largest gradient element, and the element's absolute value.

    NaN counts as the largest value.
    """
    largest = [(name, p.grad.abs().amax().item()) for name, p in parameters if p.grad is not None]
    return max(largest, key=lambda pair: (math.isnan(pair[1]), pair[1]))


def _record_layers(network: nn.Module, not_finite: list[str]) -> None:
    """Register hooks that append the name of every layer with a non-finite output to `not_finite`.

    Inner layers come before the layers that contain them.
    """

    def hook(name: str) -> Any:
        def after(_: nn.Module, inputs: Any, output: Any) -> None:
            if not _finite(output):
                not_finite.append(f"the output of {name}")

        return after

    for name, layer in network.named_modules(prefix="network"):
        layer.register_forward_hook(hook(name))


def _finite(values: Any) -> bool:
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)

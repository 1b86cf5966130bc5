"""From a saved configuration to its object, without Hydra and without trust in the file."""

import pkgutil
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from diffusion_lab.config.user_modules import make_importable
from diffusion_lab.errors import UserError

OWN = (
    "diffusion_lab.diffusion",
    "diffusion_lab.modules",
    "diffusion_lab.networks",
    "diffusion_lab.data.datamodule.ImageDataModule",
)
"""The packages whose classes a saved configuration may name, and a class by itself."""
_BY_NAME = "hydra.utils.get_method"  # gives whatever its path says
TRAINING = (
    *OWN,
    "diffusion_lab.callbacks",
    "diffusion_lab.optim",
    "torch.optim",
    "lightning.Trainer",
    "lightning.pytorch.trainer",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
    _BY_NAME,
)
"""The same for one that is to be trained again."""


def construct(node: Any, trust: Sequence[str] = ()) -> Any:
    """What hydra's instantiate makes of a node, for classes from OWN or a package in `trust` only.

    A configuration that came with a checkpoint may have been written by anybody: a name from
    anywhere else raises UserError and is not imported.
    """
    if isinstance(node, list):
        return [construct(child, trust) for child in node]
    if not isinstance(node, Mapping):
        return node
    arguments = {k: construct(v, trust) for k, v in node.items() if not str(k).startswith("_")}
    if "_target_" not in node:
        return arguments
    target = trusted(str(node["_target_"]), trust)
    return partial(target, **arguments) if node.get("_partial_") else target(**arguments)


def check_targets(config: Any, trust: Sequence[str]) -> None:
    """Raise UserError if a resolved configuration names what is not from TRAINING or `trust`."""
    if isinstance(config, list):
        for child in config:
            check_targets(child, trust)
    elif isinstance(config, Mapping):
        if "_target_" in config:
            name = str(config["_target_"])
            trusted(name, trust, TRAINING)
            if name == _BY_NAME:
                trusted(str(config.get("path")), trust, TRAINING)
        for child in config.values():
            check_targets(child, trust)


def trusted(name: str, trust: Sequence[str] = (), own: Sequence[str] = OWN) -> Any:
    """What a dotted name stands for; UserError if it is not from `own` or a package in `trust`."""

    def allowed(name: str) -> bool:
        return any(name == p or name.startswith(f"{p}.") for p in (*own, *trust))

    if allowed(name):
        make_importable(name)
        try:
            target = pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"the saved configuration names {name}: {error}") from error
        # a module of ours leads to everything it imports: judge where the object itself comes from
        origin = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
        if callable(target) and allowed(origin):
            return target
    package = name.partition(".")[0]
    raise UserError(
        f"the saved configuration names {name}, which is not one of this project's parts: "
        + (
            "do not trust it"
            if package == "diffusion_lab"
            else f"if you trust that code, say so with trust=[{package}]"
        )
    )

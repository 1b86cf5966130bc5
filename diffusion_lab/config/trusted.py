"""Build the objects of a saved configuration, without importing code that the user does not trust.

A saved configuration may have been written by anybody, so only classes of this project and of
trusted packages are built. The user names trusted packages in the option `trust=`, or permanently
in the environment variable `DIFFUSION_LAB_TRUST=my_package,other`.
"""

import logging
import os
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusion_lab.errors import UserError

OWN = (
    "diffusion_lab.diffusion",
    "diffusion_lab.modules",
    "diffusion_lab.networks",
    "diffusion_lab.data.augmentation",
    "diffusion_lab.data.datamodule.ImageDataModule",
)
"""Packages, a module and a class that every saved configuration may name."""
_BY_NAME = "hydra.utils.get_method"  # returns the object that its `path` names
VARIABLE = "DIFFUSION_LAB_TRUST"
"""Environment variable with the names of trusted packages."""
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
"""Packages that a saved configuration may name if its run is resumed or rerun."""


def trusted_packages() -> list[str]:
    """Return the packages that the environment variable DIFFUSION_LAB_TRUST names."""
    return [name for name in re.split(r"[\s,;]+", os.environ.get(VARIABLE, "")) if name]


def construct(node: Any, trust: Sequence[str] = ()) -> Any:
    """Build a configuration node like hydra.utils.instantiate, from trusted classes only.

    Trusted are the parts of this project in `OWN`, the packages in `trust`, and the packages that
    the environment variable DIFFUSION_LAB_TRUST names. Raises UserError for any other class,
    without importing its package.
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
    """Raise UserError if a `_target_` in a resolved configuration is not trusted.

    Trusted are the packages and classes listed in TRAINING, the packages in `trust`, and those
    that the environment variable DIFFUSION_LAB_TRUST names.
    """
    names = list(_names(config))
    check_all_allowed(names, names, trust, TRAINING)
    for name in names:
        trusted(name, trust, TRAINING)


def _names(config: Any) -> Iterator[str]:
    """Yield the dotted name of every class and function that a configuration names."""
    if isinstance(config, list):
        for child in config:
            yield from _names(child)
    elif isinstance(config, Mapping):
        if "_target_" in config:
            yield str(config["_target_"])
            if config["_target_"] == _BY_NAME:
                yield str(config.get("path"))
        for child in config.values():
            yield from _names(child)


def check_parts(needed: Any, all_parts: Any, trust: Sequence[str]) -> None:
    """Raise UserError if a `_target_` in the nodes `needed` is not trusted, before any is built.

    The error lists the packages of all nodes in `all_parts`, because other commands need them too.
    """
    check_all_allowed(list(_names(needed)), list(_names(all_parts)), trust, OWN)


def check_all_allowed(
    needed: Sequence[str], named: Sequence[str], trust: Sequence[str], own: Sequence[str]
) -> None:
    """Raise UserError if a dotted name in `needed` is not trusted; nothing is imported.

    The error lists the packages of all names in `named` that are not trusted.
    """
    for name in needed:
        if not _allowed(name, trust, own):
            raise _untrusted(name, [other for other in named if not _allowed(other, trust, own)])


def _allowed(name: str, trust: Sequence[str], own: Sequence[str]) -> bool:
    packages = (*own, *trust, *trusted_packages())
    return any(name == p or name.startswith(f"{p}.") for p in packages)


def _untrusted(name: str, others: Sequence[str] = ()) -> UserError:
    """Return the UserError for an untrusted name, and the packages of the names in `others`."""
    packages = list(dict.fromkeys(other.partition(".")[0] for other in (name, *others)))
    missing = ",".join(packages)
    return UserError(
        f"the saved configuration names {name}, which is neither a class that this project allows "
        "nor in a trusted package: "
        + (
            "do not use this configuration"
            if "diffusion_lab" in packages
            else f"if you trust that code, type trust=[{missing}], or set {VARIABLE}={missing}"
        )
    )


def trusted(name: str, trust: Sequence[str] = (), own: Sequence[str] = OWN) -> Any:
    """Import and return the object of a dotted name, if its package is trusted.

    Trusted are the packages in `own`, in `trust` and in DIFFUSION_LAB_TRUST. Raises UserError for
    an untrusted name, and for a name that cannot be imported.
    """
    if _allowed(name, trust, own):
        make_importable(name)
        try:
            target = pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(
                f"the saved configuration names {name}, which cannot be imported ({error}): "
                "install its package, or run the command from the folder that holds its module"
            ) from error
        # our modules also contain what they import, so check where the object itself is defined
        origin = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
        if callable(target) and _allowed(origin, trust, own):
            return target
    raise _untrusted(name)


def make_importable(name: str) -> None:
    """Append the working folder to sys.path if only that folder holds the module of `name`.

    Python puts the folder of the script or console command on sys.path, not the working folder.
    Call this for a trusted dotted name only, because the folder stays on sys.path.
    """
    top = name.partition(".")[0]
    if not top.isidentifier() or top in sys.modules or find_spec(top) is not None:
        return
    from hydra.core.hydra_config import HydraConfig  # imported here, as few names need it

    hydra = HydraConfig.instance().cfg
    folders = [Path.cwd()] if hydra is None else [Path(hydra.hydra.runtime.cwd), Path.cwd()]
    for folder in folders:
        if (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file():
            sys.path.append(str(folder))
            return


def _other_module(top: str) -> str | None:
    """Describe the module `top` if Python imports it instead of <top>.py in the working folder."""
    own = Path.cwd() / f"{top}.py"
    imported = getattr(sys.modules.get(top), "__file__", None)
    if not own.is_file() or imported is None or Path(imported).resolve() == own.resolve():
        return None
    return "a module of Python itself" if top in sys.stdlib_module_names else "another package"


def find_object(name: str) -> Any:
    """Import and return the class or function of a dotted name.

    Raises UserError if it cannot be imported, and for another object, such as a constant.
    """
    from hydra.utils import get_object

    make_importable(name)
    logger = logging.getLogger("hydra.utils")
    disabled, logger.disabled = logger.disabled, True  # this logger would print the error
    try:
        found = get_object(name)
    except (ImportError, ValueError) as error:
        cause = error.__cause__ or error
        top, (parent, _, last) = name.partition(".")[0], name.rpartition(".")
        if other := _other_module(top):
            raise UserError(
                f"{top} is {other}, not your {top}.py: rename your file, and write the new name "
                f"instead of {top} in _target_"
            ) from error
        if isinstance(cause, ModuleNotFoundError) and cause.name == name != top:
            raise UserError(f"{parent} has no {last}: check the spelling of {name}") from error
        if isinstance(cause, ModuleNotFoundError) and cause.name == top:
            raise UserError(
                f"there is no module {top}: run the command from the folder that holds {top}.py, "
                "or install the package"
            ) from error
        raise UserError(
            f"{name} cannot be imported ({type(cause).__name__}: {str(cause).splitlines()[0]}): "
            "correct the name, or the code of its module"
        ) from error
    finally:
        logger.disabled = disabled
    if not callable(found):
        raise UserError(f"it is the value {found!r:.60}: expected a class or a function")
    return found

"""Build the objects that a configuration describes."""

import re
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffusion_lab.errors import UserError, failure
from diffusion_lab.system.system_errors import fault


def build(node: Mapping[str, Any], **more: Any) -> Any:
    """Build the object of a configuration node with Hydra; `more` are arguments of instantiate.

    If the object's class raises a UserError, that error is raised instead of Hydra's. Another
    exception of a class of the user's becomes a UserError that names the class and the line.
    """
    try:
        return instantiate(node, **more)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__
        if (reason := _failed(error)) and not fault(error):
            raise UserError(reason) from error
        raise


def _failed(error: InstantiationException) -> str | None:
    """Return a line about an exception of a user-defined class; None for other classes."""
    said = re.search(r"in call to target '([^']+)'.*\nfull_key: (\S+)", str(error), re.DOTALL)
    cause = error.__cause__
    if said is None or cause is None or said[1].startswith("diffusion_lab."):
        return None
    return f"{said[2].removeprefix('model.')}: {said[1]}{failure(cause)}"


def build_part(name: str, node: Mapping[str, Any], kind: type) -> Any:
    """Build the object of a configuration node; UserError if the object is not of class `kind`.

    `name` is the name of the node in error messages, such as "sampler".
    """
    if "_target_" not in node:
        raise no_class(name)
    part = build(node, _convert_="all")
    if not isinstance(part, kind):
        raise UserError(
            f"{name}._target_={node['_target_']} builds a {type(part).__name__}: expected a "
            f"{kind.__module__.partition('.')[0]} {kind.__name__}"
        )
    return part


def no_class(name: str) -> UserError:
    """Return the UserError for a configuration node that has no `_target_`."""
    return UserError(
        f"{name} names no class: add a line with the class to its YAML file, for example "
        "_target_: my_module.MyClass"
    )

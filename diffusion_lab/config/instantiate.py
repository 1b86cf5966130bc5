"""Build the objects that a configuration describes."""

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffusion_lab.errors import UserError


def build(node: Mapping[str, Any], **more: Any) -> Any:
    """Build the object of a configuration node with Hydra; `more` are arguments of instantiate.

    If the object's class raises a UserError, that error is raised instead of Hydra's.
    """
    try:
        return instantiate(node, **more)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__
        raise


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

"""Build the objects that the configuration names."""

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffusion_lab.errors import UserError


def build(node: Mapping[str, Any], **more: Any) -> Any:
    """Build a node by Hydra's instantiate; a UserError raised within is passed on unchanged."""
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
    """Build the node `name`; UserError in one line if the result is no `kind`."""
    if "_target_" not in node:
        raise no_class(name)
    part = build(node, _convert_="all")
    if not isinstance(part, kind):
        raise UserError(
            f"{name}: {node['_target_']} gives a {type(part).__name__}: expected a "
            f"{kind.__module__.partition('.')[0]} {kind.__name__}"
        )
    return part


def no_class(name: str) -> UserError:
    """Return the error for a node without `_target_`."""
    return UserError(
        f"{name} names no class: its YAML file needs a line such as _target_: my_module.MyClass"
    )

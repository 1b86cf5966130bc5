"""From a node of the configuration to its object."""

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffusion_lab.errors import UserError


def build(node: Mapping[str, Any], **more: Any) -> Any:
    """Hydra's instantiate, with a UserError from inside as it was raised."""
    try:
        return instantiate(node, **more)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__
        raise

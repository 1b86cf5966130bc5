"""Errors of a user-defined part that breaks its contract: one line that names the part."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.diffusion import FunctionSampler
from diffusion_lab.errors import UserError, failure


def is_of_this_package(part: object) -> bool:
    """Return True for a part of this package; a user's subclass of one counts as user-defined."""
    if isinstance(part, FunctionSampler):
        return _is_ours(_function_of(part).__module__)
    return _is_ours(type(part).__module__)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "diffusion_lab"


def _function_of(sampler: FunctionSampler) -> Any:
    function: Any = sampler.function
    while hasattr(function, "func"):  # functools.partial, from a configuration
        function = function.func
    return function


def tried(group: str, part: object, method: str, call: Callable[[], Any], hint: str = "") -> Any:
    """Return call(); an exception becomes a one-line UserError that names the part and `method`.

    `hint` is appended to the message. UserErrors are raised unchanged.
    """
    try:
        return call()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{group}: {name_of(part)}.{method}{failure(error)}{hint}") from error


def check_tensor(
    group: str, part: object, method: str, value: Any, shape: Sequence[int], single: bool = False
) -> None:
    """Raise UserError unless `value` is a tensor of `shape` and of finite floating-point numbers.

    With `single`, float64 is rejected too: it would make the training slow.
    """
    if not isinstance(value, Tensor):
        raise broken(group, part, f"{method} gives {kind_of(value)}", "a tensor")
    if tuple(value.shape) != tuple(shape):
        raise broken(
            group, part, f"{method} gives the shape {tuple(value.shape)}", f"{tuple(shape)}"
        )
    if not value.is_floating_point():
        raise broken(group, part, f"{method} gives {value.dtype}", "floating-point numbers")
    if single and value.dtype == torch.float64:
        raise broken(
            group, part, f"{method} gives torch.float64", "torch.float32 (end with .float())"
        )
    if not value.isfinite().all():
        raise broken(group, part, f"{method} gives nan or inf", "finite numbers")


def kind_of(value: object) -> str:
    """Return the name of a value's type, for an error message."""
    return "None" if value is None else type(value).__name__


def broken(group: str, part: object, found: str, expected: str) -> UserError:
    """Return the UserError for a part of which `found` was found, but `expected` was expected."""
    return UserError(
        f"{group}: {name_of(part)}: {found}, expected {expected}; see docs/extending.md"
    )


def name_of(part: object) -> str:
    """Return the dotted name of a part's class, or of a sampler's function."""
    if isinstance(part, FunctionSampler):
        return f"{_function_of(part).__module__}.{part.name}"
    return f"{type(part).__module__}.{type(part).__name__}"

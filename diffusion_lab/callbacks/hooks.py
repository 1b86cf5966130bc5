"""Hooks of user-defined callbacks: their arguments, and exceptions in them."""

import inspect
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import lightning as L

from diffusion_lab.errors import UserError, failure
from diffusion_lab.system.system_errors import fault

_NOT_OWN = ("diffusion_lab", "lightning", "pytorch_lightning")


def _is_own(callback: object) -> bool:
    return type(callback).__module__.partition(".")[0] not in _NOT_OWN


def _name(callback: object) -> str:
    return f"{type(callback).__module__}.{type(callback).__qualname__}"


def check_hooks(callback: L.Callback) -> None:
    """Raise UserError if a hook of a user-defined callback cannot take Lightning's arguments."""
    if not _is_own(callback):
        return
    for name, base in inspect.getmembers(L.Callback, inspect.isfunction):
        own = getattr(callback, name)
        if name.startswith("_") or getattr(type(callback), name) is base:
            continue
        _, *expected = inspect.signature(base).parameters.values()
        given = [p.name for p in expected if p.default is p.empty]
        by_name = {given.pop(): None} if given[-1:] == ["stage"] else {}
        try:
            inspect.signature(own).bind(*given, **by_name)
        except TypeError as error:
            raise UserError(
                f"callbacks: {_name(callback)}.{name}{inspect.signature(own)}: expected "
                f"{name}({', '.join(['self', *given, *by_name])})"
            ) from error


@contextmanager
def told_in_a_line(callbacks: Iterable[L.Callback]) -> Iterator[None]:
    """Turn an exception in a hook of a user-defined callback into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        own = [callback for callback in callbacks if _is_own(callback)]
        for frame, _ in traceback.walk_tb(error.__traceback__):
            callback = frame.f_locals.get("self")
            if any(callback is other for other in own) and not fault(error):
                hook = f"{_name(callback)}.{frame.f_code.co_name}"
                raise UserError(f"callbacks: {hook}{failure(error)}") from error
        raise

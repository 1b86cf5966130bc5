"""The callbacks of a Trainer, an attribute that Lightning sets without declaring it."""

from typing import TypeVar

import lightning as L

C = TypeVar("C", bound=L.Callback)


def attached(trainer: L.Trainer, kind: type[C]) -> list[C]:
    """The trainer's callbacks of a kind, in their order."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, kind)]

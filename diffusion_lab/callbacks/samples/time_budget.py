"""A share of a run's time."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from diffusion_lab.errors import UserError


class Budget:
    """What something may take of a training's wall time, over all the times it is taken up again.

    `share` is above 0 and at most 1; None for no limit. Raises UserError, which names `setting`,
    for any other.
    """

    def __init__(self, share: float | None, setting: str) -> None:
        if share is not None and not 0 < share <= 1:
            raise UserError(
                f"{setting}={share}: expected a share of the run's time, above 0 and at most 1, or "
                "null for no limit"
            )
        self.share = share
        self.spent = 0.0
        """Seconds."""
        self._before = 0.0  # seconds of training before this process took the run up
        self._began: float | None = None

    def start(self) -> None:
        """Training begins, or goes on."""
        self._began = monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of training, what was spent included."""
        return self._before + (0.0 if self._began is None else monotonic() - self._began)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """What is done meanwhile counts."""
        began = monotonic()
        try:
            yield
        finally:
            self.spent += monotonic() - began

    def taken(self, more: float = 0.0) -> float:
        """The share that is spent, or will be after so many seconds more of it."""
        total = self.elapsed + more
        return min(1.0, (self.spent + more) / total) if total else 0.0

    def allows(self, more: float) -> bool:
        """Whether so many seconds more keep to the share."""
        return self.share is None or self.taken(more) <= self.share

    def state_dict(self) -> dict[str, float]:
        """Plain numbers, for a checkpoint."""
        return {"spent": self.spent, "elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on from there."""
        self.spent, self._before = state_dict["spent"], state_dict["elapsed"]

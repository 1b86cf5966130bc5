"""Time budget of a callback as a fraction of the training time."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from diffusion_lab.errors import UserError


class Budget:
    """Limit on the fraction of a training's wall time, counted over all resumed starts.

    `share` is above 0 and at most 1; None for no limit. Raises UserError, with the option's name
    `setting`, for another value.
    """

    def __init__(self, share: float | None, setting: str) -> None:
        if share is not None and not 0 < share <= 1:
            raise UserError(
                f"{setting}={share}: expected a fraction of the run's time, above 0 and at most 1, "
                "or null for no limit"
            )
        self.share = share
        self.spent = 0.0
        """Seconds."""
        self._before = 0.0  # seconds of training before this start
        self._began: float | None = None

    def start(self) -> None:
        """Start the clock, at the beginning of training or when a run is resumed."""
        self._began = monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of training, including `spent`."""
        return self._before + (0.0 if self._began is None else monotonic() - self._began)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Add the time spent within this context to `spent`."""
        began = monotonic()
        try:
            yield
        finally:
            self.spent += monotonic() - began

    def taken(self, more: float = 0.0) -> float:
        """Return the fraction spent, or to be spent after `more` seconds."""
        total = self.elapsed + more
        return min(1.0, (self.spent + more) / total) if total else 0.0

    def allows(self, more: float) -> bool:
        """Return True if `more` seconds stay within the budget."""
        return self.share is None or self.taken(more) <= self.share

    def state_dict(self) -> dict[str, float]:
        """Return seconds spent and elapsed, for a checkpoint."""
        return {"spent": self.spent, "elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restore the seconds spent and elapsed."""
        self.spent, self._before = state_dict["spent"], state_dict["elapsed"]

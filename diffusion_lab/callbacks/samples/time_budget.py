"""Time budget of a callback, as a fraction of the training time."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from diffusion_lab.errors import UserError


class Budget:
    """Limit on a callback's wall time, as a fraction of the whole training's wall time.

    The times before a run was resumed count too. `share` is the fraction, above 0 and at most 1, or
    None for no limit. Raises UserError for any other `share`; the message names the option,
    `setting`.
    """

    def __init__(self, share: float | None, setting: str) -> None:
        if share is not None and not 0 < share <= 1:
            raise UserError(
                f"{setting}={share}: expected a fraction of the run's time, above 0 and at most 1, "
                "or null for no limit"
            )
        self.share = share
        self.spent = 0.0
        """Seconds that the callback has used so far."""
        self._before = 0.0  # seconds of training before this start
        self._began: float | None = None

    def start(self) -> None:
        """Start the clock, at the beginning of training or when a run is resumed."""
        self._began = monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, with the callback's own time and the time before a resume."""
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
        """Return the callback's fraction of the training time after it spends `more` seconds."""
        total = self.elapsed + more
        return min(1.0, (self.spent + more) / total) if total else 0.0

    def allows(self, more: float) -> bool:
        """Return True if spending `more` seconds stays within the limit."""
        return self.share is None or self.taken(more) <= self.share

    def state_dict(self) -> dict[str, float]:
        """Return the seconds used by the callback and the seconds of training, for a checkpoint."""
        return {"spent": self.spent, "elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restore the seconds spent and elapsed."""
        self.spent, self._before = state_dict["spent"], state_dict["elapsed"]

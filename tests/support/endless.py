"""A callback for trainings that a test stops."""

import time
from typing import Any

import lightning as L


class EndlessValidation(L.Callback):
    """Holds up the first batch of a validation for ten minutes, and says so."""

    def on_validation_batch_start(self, *args: Any) -> None:
        print("validating", flush=True)
        time.sleep(600)

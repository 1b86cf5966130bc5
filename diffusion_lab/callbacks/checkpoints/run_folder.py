"""Stop training if the run folder is removed; correct saved paths if the folder was moved."""

from pathlib import Path
from time import monotonic
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from diffusion_lab.system.lock import check_still_there

_SECONDS_BETWEEN_CHECKS = 0.1


class RunFolder(L.Callback):
    """Raise UserError once the run folder is removed, before anything creates it again.

    Checkpoints and figures create the folders they need, so without this check a run would
    continue in a folder without its configuration and earlier results. The check runs at the end of
    an epoch, before a checkpoint, and after a batch at most ten times a second.

    If the folder was moved before the run was resumed, the paths in the saved states of other
    callbacks are corrected, so that ModelCheckpoint finds its earlier best checkpoint.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        self._checked_at = 0.0

    @rank_zero_only
    def _check(self) -> None:
        check_still_there(self.run_dir)

    def on_train_batch_end(self, *args: Any) -> None:
        """Check that the run folder exists, at most ten times a second."""
        if monotonic() - self._checked_at >= _SECONDS_BETWEEN_CHECKS:
            self._checked_at = monotonic()
            self._check()

    def on_train_epoch_end(self, *args: Any) -> None:
        """Check that the run folder exists, before samples and figures are written."""
        self._check()

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Replace the old path of a moved run folder in the saved states of all callbacks."""
        saved = Path(checkpoint["config"]["paths"]["output_dir"])
        befores = {f"{saved}/", f"{saved.resolve()}/"}
        here = f"{self.run_dir.resolve()}/"  # resolved, as Lightning saves paths

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {moved(k): moved(v) for k, v in value.items()}
            if isinstance(value, str):
                for before in befores:
                    if value.startswith(before):
                        return here + value[len(before) :]
            return value

        checkpoint["callbacks"] = moved(checkpoint["callbacks"])

    def on_save_checkpoint(self, *args: Any) -> None:
        """Check that the run folder exists before a checkpoint is written, even on an exception."""
        self._check()

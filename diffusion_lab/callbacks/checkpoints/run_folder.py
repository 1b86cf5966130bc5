"""A run ends with its folder."""

from pathlib import Path
from time import monotonic
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from diffusion_lab.system.lock import check_still_there

_SECONDS_BETWEEN_LOOKS = 0.1


class RunFolder(L.Callback):
    """Ends training once its folder is gone, with UserError, before anything makes it again.

    Checkpoints and pictures make the folders they need: without this a run would go on in a folder
    that lacks its configuration and its past. It looks before an epoch's end and a checkpoint, and
    ten times a second.

    A folder that was moved since its last checkpoint is told the other callbacks, so that `best`
    goes on from what it had.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        self._looked = 0.0

    @rank_zero_only
    def _check(self) -> None:
        check_still_there(self.run_dir)

    def on_train_batch_end(self, *args: Any) -> None:
        """Look, if it is time."""
        if monotonic() - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._looked = monotonic()
            self._check()

    def on_train_epoch_end(self, *args: Any) -> None:
        """Look before pictures are drawn."""
        self._check()

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the folder's new place into the paths that callbacks saved."""
        saved = Path(checkpoint["config"]["paths"]["output_dir"])
        befores = {f"{saved}/", f"{saved.resolve()}/"}
        here = f"{self.run_dir.resolve()}/"  # as Lightning has it, which follows links

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
        """Look before a checkpoint is written, also the one that an error leaves."""
        self._check()

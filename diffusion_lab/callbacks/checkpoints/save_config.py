"""Configuration, data and metrics in the checkpoint, to rebuild the module from it."""

from typing import Any

import lightning as L


class SaveConfig(L.Callback):
    """Add the resolved configuration, the data's provenance and the metrics to every checkpoint.

    All are plain dictionaries, so the file loads with `weights_only=True`.
    """

    def __init__(self, config: dict[str, Any], provenance: dict[str, Any]) -> None:
        self.config = config
        self.provenance = provenance

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add `config`, `data` and `metrics` to a full checkpoint."""
        checkpoint["config"] = self.config
        checkpoint["data"] = self.provenance
        checkpoint["metrics"] = {k: v.item() for k, v in trainer.callback_metrics.items()}

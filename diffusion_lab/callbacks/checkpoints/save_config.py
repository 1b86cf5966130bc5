"""A checkpoint that says how to rebuild what it holds."""

from typing import Any

import lightning as L


class SaveConfig(L.Callback):
    """Puts the resolved configuration, the data's provenance and the metrics into every checkpoint.

    All are plain dictionaries, so the file loads with `weights_only=True`.
    """

    def __init__(self, config: dict[str, Any], provenance: dict[str, Any]) -> None:
        self.config = config
        self.provenance = provenance

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Called by Lightning for every full checkpoint."""
        checkpoint["config"] = self.config
        checkpoint["data"] = self.provenance
        checkpoint["metrics"] = {k: v.item() for k, v in trainer.callback_metrics.items()}

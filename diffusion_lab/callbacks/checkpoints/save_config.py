"""Configuration, data and metrics in the checkpoint, to rebuild the module from it."""

from typing import Any

import lightning as L


class SaveConfig(L.Callback):
    """Add the resolved configuration, the data's provenance and the metrics to checkpoints.

    All three are plain dictionaries, so that torch.load reads the file with `weights_only=True`.
    Lightning calls this callback for every checkpoint except with `save_weights_only=True`.
    """

    def __init__(self, config: dict[str, Any], provenance: dict[str, Any]) -> None:
        self.config = config
        self.provenance = provenance

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entries `config`, `data` and `metrics` to the checkpoint."""
        checkpoint["config"] = self.config
        checkpoint["data"] = self.provenance
        checkpoint["metrics"] = {k: v.item() for k, v in trainer.callback_metrics.items()}

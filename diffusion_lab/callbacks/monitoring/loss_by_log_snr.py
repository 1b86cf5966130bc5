"""Training and validation loss as a function of log-SNR, as a table and a figure."""

import csv
import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.callbacks.samples.figures import log_picture
from diffusion_lab.diffusion.log_snr import (
    ImpliedWeighting,
    implied_weighting,
    log_snr,
    log_snr_range,
)
from diffusion_lab.errors import UserError
from diffusion_lab.figures import Band
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.system.atomic import replacing

_KINDS = ("error", "x0_error", "loss")
_SPLITS = ("train", "val")
COLUMNS = (
    "split",
    "log_snr_low",
    "log_snr_high",
    "n",
    *(name for kind in _KINDS for name in (kind, f"{kind}_se")),
)
"""Columns of loss_by_noise.csv. A row is a bin with `n` images and their means: `error` and
`x0_error` are squared errors on the target and on x0, `loss` is the weighted loss, all per pixel in
the network's value range. A column with `_se` is the standard error of the column before."""


class LossByNoise(L.Callback):
    """Average the losses of all images in bins of log-SNR, and write a table and a figure.

    The `bins` have equal width and cover the log-SNRs of training noise levels between the 0.1 %
    and 99.9 % quantiles. The first and the last bin also hold the images outside this range.

    Every `every_n_epochs` epochs and at the end of training, figures/loss_by_noise.png and
    loss_by_noise.csv are written. They hold the losses of the last validation, and the training
    losses since the files were last written. If this period has fewer images than the previous one,
    as at the end of training, the losses of the previous period are included. Images whose loss is
    not finite are left out.

    Losses are summed on the device, and over processes when the files are written. A checkpoint
    holds only the sums of the first process, so that a multi-process run resumed within an epoch
    lacks the other processes' images of that period.
    """

    def __init__(self, bins: int = 20, every_n_epochs: int = 1) -> None:
        for name, value in (("bins", bins), ("every_n_epochs", every_n_epochs)):
            if value < 1:
                raise UserError(f"callbacks.loss_by_noise.{name}={value}: expected at least 1")
        self.bins = bins
        self.every_n_epochs = every_n_epochs
        self.edges = torch.empty(0)
        # per bin the number of images, and sum and sum of squares of each of _KINDS
        self.sums = {split: torch.zeros(bins, 7, dtype=torch.float64) for split in _SPLITS}
        self.written = self.sums["train"].clone()  # the last window, of all processes

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the edges of the bins, and continue from the sums of a checkpoint."""
        module = _diffusion(pl_module)
        low, high = log_snr_range(module.time_sampling, module.noise_schedule)
        dtype = torch.float32 if module.device.type == "mps" else torch.float64
        self.edges = torch.linspace(low, high, self.bins + 1, dtype=dtype, device=module.device)
        for split in _SPLITS:
            sums = self.sums[split].to(self.edges)
            self.sums[split] = sums if trainer.is_global_zero else torch.zeros_like(sums)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the losses of a training batch to the bins."""
        self._add("train", _diffusion(pl_module), outputs["losses"], outputs["error"], outputs["t"])

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the validation sums."""
        self.sums["val"] = torch.zeros_like(self.sums["val"])

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the losses of a validation batch to the bins, weighted as in training."""
        module = _diffusion(pl_module)
        self._add("val", module, outputs["losses"], outputs["error"], outputs["t"])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Every `every_n_epochs` epochs, write the table and the figure and reset the sums.

        The sums are kept if a limit ended the epoch early, because a resumed run continues the
        epoch.
        """
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0 and trainer.is_last_batch:
            self.written = self._write(trainer, _diffusion(pl_module))
            self.sums["train"].zero_()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table and the figure if there were training steps since the last writing."""
        self._write(trainer, _diffusion(pl_module))

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as plain lists, for the checkpoint."""
        sums = {split: sums.tolist() for split, sums in self.sums.items()}
        return {**sums, "written": self.written.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the sums from a checkpoint, which may be from within an epoch."""
        loaded = {k: torch.tensor(v, dtype=torch.float64) for k, v in state_dict.items()}
        self.written = loaded.pop("written")
        self.sums = loaded

    @torch.no_grad()
    def _add(
        self, split: str, module: DiffusionModule, losses: Tensor, error: Tensor, t: Tensor
    ) -> None:
        schedule = module.noise_schedule
        x0_weight = module.prediction.x0_weight(schedule.alpha(t), schedule.sigma(t))
        # all on the device, without waiting for it
        error = error.to(self.edges)
        values = torch.stack([error, error / x0_weight.to(error), losses.to(error)], 1)
        finite = values.isfinite().all(1, keepdim=True)
        values = torch.where(finite, values, 0)
        row = torch.cat([finite.to(values), values, values.square()], 1)
        level = log_snr(schedule, t).to(self.edges)
        self.sums[split].index_add_(0, torch.bucketize(level, self.edges[1:-1]), row)

    def _write(self, trainer: L.Trainer, module: DiffusionModule) -> Tensor:
        """Write the table and the figure; return the training sums of all processes, (bins, 7)."""
        train, val = (
            trainer.strategy.reduce(self.sums[split].clone(), reduce_op="sum").double().cpu()
            for split in _SPLITS
        )
        n = train[:, 0].sum()
        shown = train + self.written if n < self.written[:, 0].sum() else train
        folder = Path(trainer.default_root_dir)
        # never recreate a removed run folder
        if not n or not trainer.is_global_zero or not folder.is_dir():
            return train
        edges = self.edges.double().cpu().numpy()
        tables = {"train": table(edges, shown.numpy()), "val": table(edges, val.numpy())}
        with replacing(folder / "loss_by_noise.csv") as part, part.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            for split, columns in tables.items():
                rows.writerows([split, *row] for row in zip(*columns.values(), strict=True))
        implied = implied_weighting(
            module.time_sampling, module.noise_schedule, module.weighting, module.prediction
        )
        path = folder / "figures" / "loss_by_noise.png"
        figures.save_figure(loss_by_noise_figure(edges, tables, implied), path)
        log_picture(trainer, "loss_by_noise", path)
        return train


def table(edges: NDArray[np.float64], sums: NDArray[np.float64]) -> dict[str, list[float]]:
    """Compute the columns of loss_by_noise.csv except `split`: name -> one value per bin.

    `edges` (bins + 1,) are log-SNRs. `sums` (bins, 7) holds the number of images, the sums of
    error, x0_error and loss, and the three sums of squares. The means of a bin without images are
    nan, and so are the standard errors of a bin with fewer than two images.
    """
    low, high = edges[:-1].tolist(), edges[1:].tolist()
    columns = {"log_snr_low": [-math.inf, *low[1:]], "log_snr_high": [*high[:-1], math.inf]}
    n = sums[:, 0]
    columns["n"] = n.astype(int).tolist()
    with np.errstate(divide="ignore", invalid="ignore"):
        for k, kind in enumerate(_KINDS):
            mean = sums[:, 1 + k] / n
            variance = np.maximum(sums[:, 4 + k] / n - mean**2, 0) * n / (n - 1)
            columns[kind] = mean.tolist()
            columns[f"{kind}_se"] = np.sqrt(variance / n).tolist()
    return columns


def loss_by_noise_figure(
    edges: NDArray[np.float64],
    tables: dict[str, dict[str, list[float]]],
    implied: ImpliedWeighting,
) -> Figure:
    """Plot the squared error of the output and of x0, the loss, and the weighting over log-SNR.

    The loss is shown as a fraction of the total per unit of log-SNR, and the weighting is the one
    that the training objective implies. `edges` (bins + 1,) are the edges of the bins, and `tables`
    maps "train" and "val" to the columns that `table` returns.
    """
    middles, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    names = {"train": "training", "val": "validation"}
    present = {split: columns for split, columns in tables.items() if any(columns["n"])}

    def bands(kind: str) -> dict[str, Band]:
        return {
            names[split]: Band(middles, columns[kind], 2 * np.array(columns[f"{kind}_se"]))
            for split, columns in present.items()
        }

    fractions: dict[str, Band] = {}
    for split, columns in present.items():
        sums = np.nan_to_num(np.array(columns["loss"])) * columns["n"]
        fractions[names[split]] = Band(middles, sums / sums.sum() / width)
    inside = (implied.log_snr >= edges[0]) & (implied.log_snr <= edges[-1])
    level = implied.log_snr[inside]
    fractions["density of noise levels"] = Band(level, implied.density[inside])
    on_x0, on_epsilon = implied.on_x0[inside], implied.on_epsilon[inside]
    weights = {
        "on the x0 loss": Band(level, on_x0 / on_x0.max()),
        "on the epsilon loss": Band(level, on_epsilon / on_epsilon.max()),
    }
    fraction = "fraction of the loss, per unit of log-SNR"
    return figures.level_panels(
        {
            "squared error on the target": bands("error"),
            "squared error on x0": bands("x0_error"),
            fraction: fractions,
            "implied weighting, largest = 1": weights,
        },
        linear=(fraction,),
    )


def _diffusion(module: L.LightningModule) -> DiffusionModule:
    assert isinstance(module, DiffusionModule)
    return module

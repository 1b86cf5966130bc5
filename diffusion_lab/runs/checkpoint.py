"""Read and write checkpoints; a new file replaces an old one only after the new file was verified.

`Checkpoint` lists the contents of a checkpoint.
"""

import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from diffusion_lab.config.renamed import with_new_names
from diffusion_lab.errors import UserError, reason_of
from diffusion_lab.system.atomic import replacing
from diffusion_lab.system.system_errors import no_memory

PARTS = ("command", "data", "model", "noise_schedule", "sampler")
"""Nodes that the configuration in every checkpoint has."""
PREVIOUS = "previous"
"""Name, without .ckpt, of the file that keeps the last.ckpt before the newest one."""


class WeightAverage(TypedDict):
    """The moving average of the weights in a checkpoint."""

    weights: dict[str, Tensor]
    """Averaged parameters in float32, named as in `state_dict`."""
    steps: int
    """Number of optimizer steps that the average includes."""


class Checkpoint(TypedDict):
    """Contents of a checkpoint: plain types and tensors only.

    A NotRequired key is missing if the run does not need it, or if the checkpoint was written
    before the key existed.
    """

    # written by this project's callbacks, in callbacks/checkpoints/ and callbacks/ema.py
    config: dict[str, Any]
    """The resolved configuration of the run (SaveConfig)."""
    data: dict[str, Any]
    """Provenance of the images: data set, source, SHA-256, numbers of images (SaveConfig)."""
    metrics: dict[str, float]
    """The last measured metrics, by name (SaveConfig)."""
    random: list[dict[str, Any]]
    """Random states of Python, NumPy, torch and its devices, per process (RandomState)."""
    threads: int
    """Number of CPU threads, which affects the last bits of the results (RandomState)."""
    pending: NotRequired[dict[str, float]]
    """Metrics that Lightning logs only after saving the checkpoint (PendingMetrics)."""
    stopping: NotRequired[bool]
    """True if early stopping has ended the run, or will do so at min_epochs (ResumeState)."""
    gradients: NotRequired[dict[str, Tensor]]
    """Gradients accumulated for the next step, by parameter, if there are any (ResumeState)."""
    ema: NotRequired[WeightAverage]
    """The moving average of the weights, if the run keeps one (EMA)."""

    # written by Lightning
    state_dict: dict[str, Tensor]
    """Trained weights and buffers of the module: `network.*`, and `weighting.*` if learned."""
    epoch: int
    """The epoch in which the checkpoint was saved, from 0."""
    global_step: int
    """Number of optimizer steps so far."""
    loops: dict[str, Any]
    """Progress of Lightning's loops: epochs, batches and optimizer steps."""
    callbacks: dict[str, Any]
    """States of the callbacks, by class name, plus settings if a class may occur twice."""
    optimizer_states: list[dict[str, Any]]
    """The optimizer's state_dict."""
    lr_schedulers: list[dict[str, Any]]
    """The learning-rate schedule's state_dict; empty without a schedule."""
    ImageDataModule: NotRequired[dict[str, Any]]
    """Position of the training loader's shuffling; the key is the class of the data module."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning plugin that verifies a new checkpoint before the file replaces the old one.

    When a new last.ckpt is saved, the old last.ckpt is kept as previous.ckpt.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint atomically and verify the file; Lightning calls this on rank 0."""
        path = Path(path)
        with replacing(path) as part:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            read_checkpoint(part)
            if path.stem == "last" and path.exists():
                with replacing(path.with_name(f"{PREVIOUS}.ckpt")) as old:
                    _link(path, old)  # so that last.ckpt exists at every moment
        if os.name == "posix":  # other systems cannot open a folder
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the rename itself
            finally:
                os.close(folder)


def _link(path: Path, to: Path) -> None:
    try:
        os.link(path, to)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, to)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU, without running any code in the file.

    Raises UserError for a file that is damaged, holds more than plain types and tensors, or was
    not written by this project.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                # torch does not compress
                raise ValueError("its zip entries are larger than the file itself")
            # torch itself does not verify the checksums
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"wrong checksum of {damaged}")
        state: Checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not all(isinstance(state["config"][part], dict) for part in PARTS):
            raise ValueError("the file has no configuration of this project")
        if not isinstance(state["state_dict"], dict):
            raise ValueError("the file has no weights")
    except Exception as error:
        if no_memory(error):
            raise
        unsafe = isinstance(error, pickle.UnpicklingError)
        what = "it holds code, which was not run" if unsafe else reason_of(error)
        beside = [path.with_stem(name) for name in (PREVIOUS, "best") if name != path.stem]
        others = [f"checkpoint={other.stem}" for other in beside if other.exists()]
        raise UserError(
            f"{path} is damaged or was not written by this project ({what}): use "
            f"{' or '.join([*others, 'another run' if others else 'another checkpoint or run'])}"
        ) from error
    state["config"] = with_new_names(state["config"])
    return state

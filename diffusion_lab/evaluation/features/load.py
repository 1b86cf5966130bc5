"""Choose and load feature extractors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from diffusion_lab.data.sources import BUILT_IN
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.extractor import (
    DINOV2,
    INCEPTION,
    RESTORE,
    Extractor,
    TrainedExtractor,
    has_own_name,
    verified,
)
from diffusion_lab.evaluation.features.networks import CNN, build_network, unpacked

SHIPPED = Path(__file__).parents[1] / "weights"


def extractor_for(data: str, setting: str = "extractor", words: str = "") -> str:
    """Return the name of the shipped extractor for a data set.

    Raises UserError if there is none; the message lists the alternatives for `setting`. `words` are
    the options of a data set of the user's own, for the command in the message.
    """
    if name := shipped_for(data):
        return name
    if data not in BUILT_IN:
        raise UserError(
            f"no extractor comes with {data}: use {setting}={INCEPTION}; or train one, python "
            f"scripts/train_extractor.py version=<name> "
            f"{words or 'with the data options of the training'}, and give its folder, "
            f"{setting}=<folder>"
        )
    raise UserError(
        f"no extractor comes with data={data}: train one by python scripts/train_extractor.py "
        f"data={data} version={data}_v1 and type {setting}=<its folder>, or use "
        f"{setting}={INCEPTION}"
    )


def load_extractor(name: str = "mnist_v1", device: torch.device | str = "cpu") -> Extractor:
    """Load a feature extractor.

    Args:
        name: a shipped extractor, such as mnist_v1; a folder written by
            scripts/train_extractor.py; inception, for published FIDs, or <path>.pth, a file of
            Inception's weights; dinov2, for published FD-DINOv2, or <path>.safetensors, a file of
            DINOv2's weights.
        device: device of Inception and DINOv2; the small networks stay on the CPU.

    Raises:
        UserError: if there is no such extractor, or its weights do not match its record.

    """
    if name == INCEPTION or name.endswith(".pth"):
        from diffusion_lab.evaluation.features.inception import load_inception

        return load_inception(None if name == INCEPTION else Path(name), device)
    if name == DINOV2 or name.endswith(".safetensors"):
        from diffusion_lab.evaluation.features.dinov2 import load_dinov2

        return load_dinov2(None if name == DINOV2 else Path(name), device)
    record_file = _record_file(name)
    folder = record_file.parent
    try:
        record = json.loads(record_file.read_text())
        weights = folder / f"{record['version']}.safetensors"
        network = build_network(
            record.get("architecture", CNN),
            tuple(record["image_shape"]),
            record["num_classes"],
            record["num_features"],
        )
        _ = record["data"]["dataset"], record["sha256"], record["reference_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{record_file} is damaged ({error!r}): {RESTORE}") from error
    try:
        network.load_state_dict(unpacked(load(verified(weights, record["sha256"]))))
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise UserError(
            f"{weights} does not hold the weights of the network in {record_file}: {RESTORE}"
        ) from error
    return TrainedExtractor(network, record, folder)


def shipped_versions() -> list[str]:
    """Return the names of the extractors shipped with the package."""
    return sorted(file.stem for file in SHIPPED.glob("*.json"))


def shipped_for(data: str) -> str | None:
    """Return the newest shipped extractor trained on a data set, None if there is none."""
    trained = {
        name: json.loads((SHIPPED / f"{name}.json").read_text())["data"]
        for name in shipped_versions()
    }
    names = [name for name, on in trained.items() if has_own_name(on) and on["dataset"] == data]
    return max(names, key=lambda name: (len(name), name), default=None)


def _record_file(name: str) -> Path:
    if name in shipped_versions():
        return SHIPPED / f"{name}.json"
    folder = Path(name).expanduser()
    try:
        records = sorted(folder.glob("*.json"))
    except OSError:
        records = []
    if len(records) != 1:
        reason = f"has {len(records)} JSON files, expected one" if records else "is no extractor"
        raise UserError(
            f"extractor={name} {reason}: choose from {', '.join(shipped_versions())}, "
            f"{INCEPTION}, {DINOV2}, or a folder written by scripts/train_extractor.py"
        )
    return records[0]

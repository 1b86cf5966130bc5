"""scripts/train_extractor.py: train a feature extractor for the metrics and save it."""

import logging
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save
from tqdm import tqdm

from diffusion_lab.config.schema import TrainExtractorConfig
from diffusion_lab.config.schema.data import SourceConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.loader import InMemoryLoader
from diffusion_lab.errors import UserError, unknown_name
from diffusion_lab.evaluation.features.augmentation import Affine, CropAndFlip
from diffusion_lab.evaluation.features.extractor import DINOV2, INCEPTION, TrainedExtractor
from diffusion_lab.evaluation.features.load import shipped_versions
from diffusion_lab.evaluation.features.networks import (
    CNN,
    NETWORKS,
    RESNET,
    network_for,
    packed,
    unpacked,
)
from diffusion_lab.evaluation.features.reference import make_reference, write_reference
from diffusion_lab.evaluation.features.train_classifier import Training, count_errors
from diffusion_lab.evaluation.features.train_resnet import ResNetTraining
from diffusion_lab.runs.data import named_data
from diffusion_lab.runs.record import package_versions
from diffusion_lab.system.atomic import new_folder
from diffusion_lab.system.device import choose_device
from diffusion_lab.system.git import git_commit
from diffusion_lab.system.output import file_sha256, write_json

log = logging.getLogger(__name__)

_TRAINING = ("max_epochs", "lr", "weight_decay")
_AUGMENTATION = ("shift", "rotation", "scale", "flip")
_OF: dict[str, tuple[type[Training], type[Affine] | type[CropAndFlip]]] = {
    CNN: (Training, Affine),
    RESNET: (ResNetTraining, CropAndFlip),
}
"""The training of each architecture, and its augmentation."""
PACKAGES = ("diffusion-lab", "torch", "numpy", "safetensors")


@dataclass
class TrainedFolder:
    """Result of an extractor's training."""

    out: Path
    """The folder with <version>.safetensors, <version>.json, <version>.reference.safetensors."""
    record: dict[str, Any]
    """The content of <version>.json."""

    @property
    def lines(self) -> list[str]:
        """The lines to print."""
        accuracy = self.record["accuracy"]
        return [
            f"{split.replace('_', '-')} images: {counts['errors']} of {counts['images']} "
            f"misclassified, accuracy {100 - 100 * counts['errors'] / counts['images']:.2f} %"
            for split, counts in accuracy.items()
        ] + [f"{self.record['parameters']} parameters, {self.record['seconds']:.0f} s"]


def train_extractor(cfg: DictConfig) -> TrainedFolder:
    """Train a classifier; write its weights and the real images' features to a new folder.

    Raises UserError for a mistake in the configuration, before anything is trained or written.
    """
    validate(cfg, TrainExtractorConfig)
    _check_version(cfg)
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    device = choose_device(cfg.accelerator)
    given = {k: v for k, v in settings["data"].items() if (k, v) != ("batch_size", None)}
    data = named_data(given, None)
    data.value_range.check_pixels("a feature extractor", "type data= with a data set of images")
    if data.value_range.name != SourceConfig.value_range:
        raise UserError(
            f"data.value_range={data.value_range.name} has no effect on an extractor, "
            "whose network takes pixels in [0, 1]: leave out data.value_range="
        )
    if data.num_classes is None:
        raise UserError(
            f"data={data.dataset} has no labels: expected labelled images, because an extractor "
            "is trained as a classifier; choose another data=, or score with extractor=inception"
        )
    name, training = _training(data.image_shape, settings)
    training.check(data.image_shape)
    if "batch_size" not in given:
        data.batch_size = training.batch_size
    out, commit = Path(cfg.out).expanduser().absolute(), git_commit()
    with new_folder(out) as part:
        data.setup()
        _check_numbers(data)
        train, held_out, test = (
            data.train_dataloader(),
            cast(InMemoryLoader, data.val_dataloader()),
            data.test_dataloader(),
        )
        began = time.perf_counter()
        with tqdm(total=training.max_epochs, unit="epoch") as bar:

            def progress(epoch: int, loss: float, errors: int) -> None:
                bar.set_postfix_str(f"loss {loss:.4f}, {errors} held-out images misclassified")
                bar.update()

            network = training(train, held_out, data.num_classes, device, progress)
        seconds = time.perf_counter() - began

        weights = part / f"{cfg.version}.safetensors"
        in_file = packed(network)
        weights.write_bytes(save(in_file))
        network.load_state_dict(unpacked(in_file))  # rounded, as it will be read
        record: dict[str, Any] = {
            "version": cfg.version,
            "sha256": file_sha256(weights),
            "architecture": name,
            "image_shape": list(data.image_shape),
            "num_classes": data.num_classes,
            "num_features": network.num_features,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "data": data.provenance,
            "accuracy": {
                split: {"images": len(images.labels), "errors": count_errors(network, images)}
                for split, images in {"held_out": held_out, "test": test}.items()
            },
            "training": training.settings() | {"batch_size": data.batch_size},
            "seconds": round(seconds, 1),
            "git_commit": commit,
            "python": platform.python_version(),
            "versions": package_versions(PACKAGES),
        }
        reference = part / f"{cfg.version}.reference.safetensors"
        write_reference(
            make_reference(
                TrainedExtractor(network, record, part),
                data.dataset,
                (test.images, test.labels),
                (held_out.images, held_out.labels),
            ),
            reference,
        )
        record["reference_sha256"] = file_sha256(reference)
        write_json(part / f"{cfg.version}.json", record)
    return TrainedFolder(out, record)


def _training(
    image_shape: tuple[int, int, int], settings: Mapping[str, Any]
) -> tuple[str, Training]:
    """Return the architecture's name and its training, with default values for null settings.

    Raises UserError for a setting that is out of range or belongs to the other architecture.
    """
    name = settings.get("architecture") or network_for(image_shape)
    if name not in NETWORKS:
        raise UserError(unknown_name("architecture", name, NETWORKS))
    given = {k: settings[k] for k in (*_TRAINING, *_AUGMENTATION) if settings.get(k) is not None}
    augmented = {k: given.pop(k) for k in _AUGMENTATION if k in given}
    kind, augmentation = _OF[name]
    foreign = [k for k in augmented if k not in {field.name for field in fields(augmentation)}]
    if foreign:
        (other,) = set(NETWORKS) - {name}
        raise UserError(
            f"{foreign[0]}= has no effect on architecture={name}: leave out {foreign[0]}=, or type "
            f"architecture={other}"
        )
    return name, kind(augmentation=augmentation(**augmented), seed=settings["seed"], **given)


def _check_numbers(data: ImageDataModule) -> None:
    """Raise UserError for less than two held-out or test images, the least of a reference."""
    held_out, test = (len(data.labels(split)) for split in ("val", "test"))
    if min(held_out, test) < 2:
        raise UserError(
            f"data={data.dataset} has {held_out} held-out and {test} test images: expected at "
            "least 2 of each, because held-out images choose the best epoch and test images are "
            "compared with samples; type a larger data.val_size=, or choose a larger data set"
        )


def _check_version(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "version"):
        raise UserError("version= is missing: type a new name, for example version=mnist_v2")
    if not re.fullmatch(r"\w[\w.-]*", cfg.version):
        raise UserError(
            f"version={cfg.version}: expected letters, digits, '_', '.' and '-', for example "
            "version=mnist_v2"
        )
    taken = (*shipped_versions(), INCEPTION, DINOV2)
    if cfg.version in taken:
        name = cfg.version.rstrip("0123456789")
        number = int(cfg.version.removeprefix(name) or 1) + 1
        while f"{name}{number}" in taken:
            number += 1
        raise UserError(
            f"version={cfg.version} exists already, and scores of different extractors are not "
            f"comparable: type a new name, for example version={name}{number}"
        )

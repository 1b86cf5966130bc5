"""LightningDataModule for images: splits, batches, and scaling on the device."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffusion_lab.data.clusters import Clusters
from diffusion_lab.data.folder import find_data_dir
from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.latents.cache import encoded
from diffusion_lab.data.latents.decoder import LatentDecoder, range_of
from diffusion_lab.data.loader import InMemoryLoader, check_whole_number
from diffusion_lab.data.placement import check_on_device, keep
from diffusion_lab.data.shape import ImageSize
from diffusion_lab.data.sources import make_source
from diffusion_lab.data.split import check_pairs, padded, split_indices
from diffusion_lab.errors import UserError, unknown_name
from diffusion_lab.networks.image_size import height_and_width

log = logging.getLogger(__name__)
MAX_BUNDLED_VAL = 500
MAX_AUTO_VAL = 5_000


class ImageDataModule(L.LightningDataModule):
    """Data module of images kept in memory or in a memory-mapped file.

    Images are stored as uint8, or as floats if value_range=unbounded. Batches are images float32
    (B, C, H, W) and labels int64 (B,). Validation images are split off the training split with a
    fixed seed, so that all runs are validated on the same images, whatever their own seed.

    Args:
        name: mnist, fashion_mnist, kmnist, cifar10, cifar100, svhn, fake, or a name of your own.
        data_dir: folder of the files (or for the download) in torchvision's layout; None for
            data/, where the bundled digits replace mnist if it is not available.
        source: auto (folder, download or bundled digits), full (folder or download), bundled
            (5,000 digits of mnist), pictures, npz or huggingface.
        batch_size: images in a batch of one process.
        val_size: images held out for validation; 0 for no validation; None for a tenth of the
            training images, at most 5,000.
        value_range: zero_one for [0, 1], minus_one_one for [-1, 1], or unbounded: no pixels.
            With `latents` it has no effect.
        latents: train on latents of an AutoencoderKL, named by its folder or its name on the Hub.
        image_size: side of the images, or (height, width); None for the original size. Published
            images and those of a function are padded with black, pictures are resized.
        seed: seed of the order of the training batches.
        train_size: number of training images, the first of a fixed shuffled order; None for all.
        channels: channels of the images.
        flip: mirror each training image left to right with probability 1/2.
        clusters: number of clusters of similar training images that replace the labels.
        on_device: keep the images in the GPU's memory: auto (if they fit), True or False.
        options: options of the source, see `diffusion_lab.data.sources.OPTIONS`.

    Raises:
        UserError: for a setting out of range, or a setting that the source does not have.

    """

    def __init__(
        self,
        name: str = "mnist",
        data_dir: str | Path | None = None,
        source: str = "auto",
        batch_size: int = 128,
        val_size: int | None = 5_000,
        value_range: str = "zero_one",
        latents: str | None = None,
        image_size: ImageSize | None = None,
        seed: int = 0,
        train_size: int | None = None,
        channels: int = 1,
        flip: bool = False,
        clusters: int | None = None,
        on_device: bool | str = "auto",
        **options: Any,
    ) -> None:
        super().__init__()
        check_on_device(on_device)
        check_whole_number("batch_size", batch_size, least=1)
        check_whole_number("seed", seed, least=0)
        for setting, value, least in (("val_size", val_size, 0), ("train_size", train_size, 1)):
            if value is not None:
                check_whole_number(setting, value, least)
        if clusters is not None:
            check_whole_number("clusters", clusters, least=2)
        self.dataset, self.source, self.seed, self.channels = name, source, seed, channels
        self.data_dir = find_data_dir(data_dir)
        self.batch_size, self.val_size, self.train_size = batch_size, val_size, train_size
        self.value_range = range_of({"value_range": value_range, "latents": latents})
        self.flip, self.clusters, self.on_device = flip, clusters, on_device
        if flip:
            self.value_range.check_flip()
        given = {option: value for option, value in options.items() if value is not None}
        self._cache_dir = given.get("cache_dir")
        also = ("cache_dir",) if latents else ()
        self._source = make_source(name, source, data_dir, channels, image_size, given, also)
        self.size = self._source.size if image_size is None else height_and_width(image_size)
        self.value_range.shape(self.image_shape)  # UserError if it does not fit

        self._prepared = False
        self._splits: dict[str, tuple[Tensor, Tensor]] = {}
        self._pixels: dict[str, Tensor] = {}  # where the splits hold latents
        self._noise: dict[str, Tensor] = {}
        self._provenance: dict[str, Any] = {}
        self._train_loader: InMemoryLoader | None = None
        self._train_state: dict[str, Any] = {}

    @property
    def num_classes(self) -> int | None:
        """Number of classes: labels are 0 to num_classes - 1. None if the data has no classes."""
        return self._source.num_classes if self.clusters is None else self.clusters

    def prepare_data(self) -> None:
        """Download or decode what is missing; Lightning calls this in one process per machine."""
        if not self._prepared:
            self._source.prepare()
        self._prepared = True

    def setup(self, stage: str | None = None) -> None:
        """Load and split the data, once for all stages.

        Without a trainer (in a notebook) this also downloads missing files. Raises UserError if the
        data is missing or smaller than val_size plus train_size.
        """
        if self._splits:
            return
        if self.trainer is None:
            self.prepare_data()
        data = self.image_set().for_range(self.value_range)
        total, note = len(data.train_labels), data.note
        val_size = self.num_val(total)
        if data.source == "bundled" and val_size > MAX_BUNDLED_VAL:
            note += f"; val_size is {MAX_BUNDLED_VAL} instead of {val_size}"
            val_size = MAX_BUNDLED_VAL
        val, train = split_indices(total, val_size, self.train_size, data.shuffled)
        self._splits = {
            "train": (padded(data.train_images[train], self.size), data.train_labels[train]),
            "val": (padded(data.train_images[val], self.size), data.train_labels[val]),
            "test": (padded(data.test_images, self.size), data.test_labels),
        }
        if self.clusters is not None:
            labels_of = Clusters(self._splits["train"][0], self.clusters)
            self._splits = {k: (x, labels_of(x)) for k, (x, _) in self._splits.items()}
        if isinstance(self.value_range, LatentDecoder):
            latents = encoded(data, self.size, self.value_range, self._cache_dir)
            parts = {"train": latents.train[train], "val": latents.train[val], "test": latents.test}
            self._pixels = {k: x for k, (x, _) in self._splits.items()}
            self._splits = {k: (parts[k], labels) for k, (_, labels) in self._splits.items()}
        self._provenance = data.provenance(len(self._splits["train"][1]), val_size, note)

    def num_val(self, total: int) -> int:
        """Return the number of validation images that are split off `total` images."""
        return min(total // 10, MAX_AUTO_VAL) if self.val_size is None else self.val_size

    def check_pairs(self, count: int) -> None:
        """Raise UserError if `count` reflow pairs are too few, or if train_size is set."""
        check_pairs(count, self.num_val(count), self.train_size)

    def use_pairs(self, images: Tensor, labels: Tensor, noise: Tensor, source: str) -> None:
        """Train and validate on pairs of noise and generated images; the test split stays real.

        Images are (N, C, H, W), labels (N,), noise (N, C, H, W), `source` their origin. The first
        `val_size` pairs are the validation split. Raises UserError as `check_pairs` does.
        """
        self.check_pairs(len(images))
        val_size = self.num_val(len(images))
        for name, part in (("val", slice(val_size)), ("train", slice(val_size, None))):
            self._splits[name] = (images[part], labels[part])
            self._noise[name] = noise[part]
        self._provenance |= {
            "num_train": len(images) - val_size,
            "num_val": val_size,
            "note": f"{len(images)} images drawn by {source}; tested on {self.provenance['note']}",
        }

    def train_dataloader(self) -> InMemoryLoader:
        """Return shuffled batches, which continue from a position set by ``load_state_dict``."""
        # overfit_batches repeats the same few batches: no shuffling
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0
        self._train_loader = self._loader("train", shuffle=not overfit)
        if self._train_state:
            self._train_loader.load_state_dict(self._train_state)
            self._train_state = {}
        return self._train_loader

    def val_dataloader(self) -> InMemoryLoader | list[InMemoryLoader]:
        """Return the validation images in order; an empty list (no validation) for val_size 0."""
        return self._loader("val") if len(self._split("val")[1]) else []

    def test_dataloader(self) -> InMemoryLoader:
        """Return the test images in order."""
        return self._loader("test")

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, ...], dataloader_idx: int
    ) -> tuple[Tensor, ...]:
        """Mirror and scale images on the device, because copying uint8 images there is cheaper."""
        images = batch[0]
        if self.flip and self.trainer is not None and self.trainer.training:
            chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(chosen, images.flip(-1), images)
        scaled = (self.value_range.encode(images), *batch[1:])
        # Lightning casts to 16-true or 64-true before this hook, when the pixels are still uint8.
        if self.trainer is not None:
            scaled = self.trainer.precision_plugin.convert_input(scaled)
        return scaled

    def example_images(self, n: int, seed: int = 0, split: str = "train") -> Tensor:
        """Return n random images of a split in the network's value range, or all if n is larger."""
        return self.examples(n, seed, split)[0]

    def examples(self, n: int, seed: int = 0, split: str = "train") -> tuple[Tensor, Tensor]:
        """Return n random images of a split as network values (n, C, H, W), and labels (n,)."""
        images, labels = self._split(split)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:n]
        return self.value_range.encode(images[order]), labels[order]

    def batch_indices(self) -> Tensor:
        """Return the indices into `pixels("train")` of the current training batch, (B,) int64.

        This is the last batch loaded: Lightning loads none ahead from a loader of known length.
        """
        if self._train_loader is None or self._train_loader.last_indices is None:
            raise RuntimeError("no training batch was loaded yet: iterate over train_dataloader()")
        return self._train_loader.last_indices

    def pixels(self, split: str) -> Tensor:
        """Return the images of a split in order, (N, C, H, W), as stored: uint8, or floats."""
        stored, _ = self._split(split)
        return self._pixels.get(split, stored)

    def labels(self, split: str) -> Tensor:
        """Return the labels of a split in order, int64, (N,)."""
        return self._split(split)[1]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return (self.channels, *self.size)

    @property
    def value_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of what the network gets: images, or their latents."""
        return self.value_range.shape(self.image_shape)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training data, for a checkpoint.

        Lightning saves the loader's state too. But when max_steps ends training within an epoch,
        Lightning counts the epoch as finished and does not restore the loader's state.
        """
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the saved position from which the next training loader continues."""
        self._train_state = state_dict.get("train", {})

    @property
    def provenance(self) -> dict[str, Any]:
        """Origin of the data, as `ImageSet.provenance` has it, and the record of the value range.

        The hash covers the whole data set before the split.
        """
        self._split("train")
        return self._provenance | self.value_range.record()

    def image_set(self) -> ImageSet:
        """Return the whole data set, without padding; UserError if it is not available."""
        return self._source.read()

    def _split(self, name: str) -> tuple[Tensor, Tensor]:
        if not self._splits:
            raise RuntimeError("the data is not loaded yet: call setup() first")
        if name not in self._splits:
            raise UserError(unknown_name("split", name, list(self._splits)))
        return self._splits[name]

    def _loader(self, split: str, shuffle: bool = False) -> InMemoryLoader:
        tensors = [*self._split(split), *([self._noise[split]] if split in self._noise else [])]
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        kept, pinned = keep(tensors, device, self.on_device)
        if device.type != "cpu" and split == "train" and rank == 0:
            log.info("training images in the memory of %s (data.on_device)", kept[0].device)
        return InMemoryLoader(
            kept[0],
            kept[1],
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            noise=kept[2] if len(kept) > 2 else None,
            pin_memory=pinned,
        )

"""Images of a data set of Hugging Face's `datasets` package."""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_lab.data.disk_cache import cache_folder
from diffusion_lab.data.image_set import MAX_CLASSES, ImageSet
from diffusion_lab.data.pictures.cache import (
    Plan,
    build_cache,
    is_complete,
    open_cache,
)
from diffusion_lab.data.pictures.decode import (
    Format,
    Unreadable,
    WrongSize,
    is_of_the_system,
    to_array,
)
from diffusion_lab.data.shape import ImageSize
from diffusion_lab.data.sources.picture_files import check_picture_channels, checked_format
from diffusion_lab.errors import UserError, reason_of, unknown_name
from diffusion_lab.networks.image_size import height_and_width


@dataclass(frozen=True)
class _Rows:
    """Rows of a split of a Hugging Face data set, decoded one by one."""

    rows: Any
    image_key: str
    labels: np.ndarray
    wanted: Format

    def name(self, index: int) -> str:
        """Return the name of a row, for messages."""
        return f"row {index}"

    def read(self, index: int) -> np.ndarray:
        """Decode the image of a row -> uint8 (C, H, W)."""
        try:
            return to_array(self.rows[index][self.image_key], self.wanted)
        except (Unreadable, WrongSize):
            raise
        except Exception as error:  # of Pillow or datasets
            if is_of_the_system(error):
                raise
            raise Unreadable(reason_of(error)) from error


class HuggingFaceImages:
    """The source of data=hf: a data set of the Hub, or a folder written by `save_to_disk`.

    Args:
        name: name on the Hub, or the folder.
        channels: 1, 3 or 4.
        image_size: side, or height and width.
        config: configuration on the Hub; None for the only one.
        split: split to train on.
        test_split: split to test on; None to hold out a tenth of `split`.
        image_key: column of the images; None for the only column of images.
        label_key: column of the classes; None for the only such column, or no classes.
        resize, background, unreadable, cache_dir: as for `PictureFiles`.

    """

    def __init__(
        self,
        name: str,
        channels: int,
        image_size: ImageSize,
        config: str | None = None,
        split: str = "train",
        test_split: str | None = None,
        image_key: str | None = None,
        label_key: str | None = None,
        resize: str | None = None,
        background: str = "white",
        unreadable: str = "stop",
        cache_dir: str | None = None,
    ) -> None:
        self.name, self.config = name, config
        self.split, self.test_split = split, test_split
        self._image_key, self._label_key, self.cache_dir = image_key, label_key, cache_dir
        if config is not None and Path(name).expanduser().is_dir():
            raise UserError(f"data.config={config} has no effect on a folder: leave it out")
        self.size = height_and_width(image_size)
        check_picture_channels(channels, "data=hf reads pictures")
        self.wanted = checked_format(channels, self.size, resize, background, unreadable)
        self.skip = unreadable == "skip"

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the label column; None without a label column."""
        return len(self._classes) or None

    def prepare(self) -> None:
        """Download the data set and decode it, unless a complete cache exists."""
        if is_complete(self._folder):
            return
        train = self._rows("split", self.split)
        test = None if self.test_split is None else self._rows("test_split", self.test_split)
        build_cache(self._folder, Plan(self.name, train, test, self.wanted, self.skip))

    def read(self) -> ImageSet:
        """Return the memory-mapped images of the cache, which is built if it is missing."""
        self.prepare()
        return open_cache(self._folder, self.name, "huggingface", self._classes)

    @cached_property
    def _splits(self) -> Any:
        datasets = _datasets()
        try:
            if Path(self.name).expanduser().is_dir():
                found = datasets.load_from_disk(str(Path(self.name).expanduser()))
                return found if isinstance(found, dict) else {self.split: found}
            return datasets.load_dataset(self.name, self.config)
        except Exception as error:  # of the Hub, the network, or a damaged folder
            raise UserError(
                f"data.name={self.name} cannot be loaded ({reason_of(error)}): expected the name "
                "of a data set on the Hub, with data.config= if it has several configurations, or "
                "a folder written by save_to_disk"
            ) from error

    def _table(self, option: str, split: str) -> Any:
        if split not in self._splits:
            raise UserError(unknown_name(f"data.{option}", split, sorted(self._splits)))
        return self._splits[split]

    @cached_property
    def _keys(self) -> tuple[str, str | None]:
        """Names of the columns of the images and of the classes (None without classes)."""
        datasets = _datasets()
        features = self._table("split", self.split).features
        images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
        labels = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
        image_key, label_key = self._image_key, self._label_key
        if image_key is None:
            if len(images) != 1:
                raise UserError(
                    f"data.name={self.name} has {len(images)} columns of images: type "
                    f"data.image_key=, one of {', '.join(images or features)}"
                )
            image_key = images[0]
        elif image_key not in images:
            raise UserError(unknown_name("data.image_key", image_key, images or list(features)))
        if label_key is None:
            label_key = labels[0] if len(labels) == 1 else None
        elif label_key not in labels:
            raise UserError(unknown_name("data.label_key", label_key, labels or list(features)))
        return image_key, label_key

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        label_key = self._keys[1]
        if label_key is None:
            return ()
        names = tuple(self._table("split", self.split).features[label_key].names)
        if len(names) > MAX_CLASSES:
            raise UserError(
                f"data.label_key={label_key} has {len(names)} classes: expected at most "
                f"{MAX_CLASSES}, or another data.label_key="
            )
        return names

    def _rows(self, option: str, split: str) -> _Rows:
        table, (image_key, label_key) = self._table(option, split), self._keys
        for key in filter(None, self._keys):
            if key not in table.features:
                raise UserError(
                    f"data.{option}={split} of {self.name} has no column {key}: expected the "
                    f"columns of data.split={self.split}, or another data.{option}="
                )
        given = [0] * len(table) if label_key is None else list(table[label_key])
        if len(given) < 2 or any(label is None or label < 0 for label in given):
            fault = f"{len(given)} rows" if len(given) < 2 else "rows without a label"
            raise UserError(
                f"data.{option}={split} of {self.name} has {fault}: expected at least two rows, "
                f"all with a label; type another data.{option}="
            )
        labels = np.asarray(given)
        return _Rows(table, image_key, labels.astype(np.int64), self.wanted)

    @cached_property
    def _folder(self) -> Path:
        splits = ("split", self.split), ("test_split", self.test_split)
        about = {
            "tables": [
                self._table(option, split)._fingerprint for option, split in splits if split
            ],
            "keys": self._keys,
            "format": asdict(self.wanted),
            "skip": self.skip,
        }
        return cache_folder("images", self.cache_dir, about)


def _datasets() -> Any:
    """Import the datasets package; UserError if it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "data=hf needs the datasets package: pip install 'diffusion_lab[hf]'"
        ) from error
    return datasets

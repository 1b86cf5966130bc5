"""Names, files, sizes and hashes of MNIST, Fashion-MNIST and KMNIST as published."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion_lab.data.mnist.idx import read_idx

# Name of a data set and torchvision's class for it. The class is also the folder's name, so that
# files downloaded by torchvision are used here, and vice versa.
TORCHVISION_CLASS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}

SOURCES = ("auto", "full", "bundled")
"""Values of data.source= for published images."""
NUM_TRAIN, NUM_TEST = 60_000, 10_000
SIDE = 28
NUM_CLASSES = 10

# MD5 of the unpacked files; torchvision lists those of the packed files only.
UNPACKED_MD5 = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
}


@dataclass(frozen=True)
class IdxFile:
    """A published IDX file: its possible locations, its shape and its hash."""

    name: str
    """Name of the data set."""
    path: Path
    """Location of the unpacked file, also the target of a download."""
    shape: tuple[int, ...]
    md5: str | None
    """MD5 of the unpacked file, None if unknown."""
    data_dir: Path

    def find(self) -> Path | None:
        """Return the path of the unpacked file or of its .gz; None if neither is found.

        Searches the folder of `path`, then `data_dir`. In `data_dir` an unpacked file counts only
        if its MD5 is known, because other data sets use the same file names.
        """
        if self.path.exists():
            return self.path
        flat = self.data_dir / self.path.name
        # all three sets use the same file names: outside its folder, only a hash identifies a file
        places = [_packed(self.path), *([flat] if self.md5 is not None else []), _packed(flat)]
        return next((place for place in places if place.is_file()), None)

    def read(self) -> np.ndarray:
        """Return the uint8 array; UserError if the file is missing or damaged."""
        found = self.find()
        if found is None or found == self.path:
            return read_idx(self.path, self.shape, self.md5)
        packed_md5 = None
        if self.md5 is None and found.parent != self.path.parent:
            packed_md5 = torchvision_resources(self.name)[1][self.path.name]
        return read_idx(found, self.shape, self.md5, packed_md5)


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def torchvision_resources(name: str) -> tuple[list[str], dict[str, str]]:
    """Return the mirrors, best first, and the MD5 of each packed file, keyed by unpacked name."""
    import torchvision.datasets  # slow to import, and rarely needed

    published = getattr(torchvision.datasets, TORCHVISION_CLASS[name])
    md5s = {file.removesuffix(".gz"): md5 for file, md5 in published.resources}
    return list(published.mirrors), md5s


def idx_files(name: str, data_dir: Path) -> list[IdxFile]:
    """Return the four files of a data set: train images and labels, test images and labels."""
    folder = data_dir / TORCHVISION_CLASS[name] / "raw"
    shapes: dict[str, tuple[int, ...]] = {
        "train-images-idx3-ubyte": (NUM_TRAIN, SIDE, SIDE),
        "train-labels-idx1-ubyte": (NUM_TRAIN,),
        "t10k-images-idx3-ubyte": (NUM_TEST, SIDE, SIDE),
        "t10k-labels-idx1-ubyte": (NUM_TEST,),
    }
    md5s = UNPACKED_MD5.get(name, {})
    return [
        IdxFile(name, folder / file, shape, md5s.get(file), data_dir)
        for file, shape in shapes.items()
    ]

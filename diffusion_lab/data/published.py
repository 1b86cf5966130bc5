"""What is known about the published data sets: their names, their four files, their sizes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion_lab.data.idx import read_idx

# The name of a data set here, and torchvision's class for it, which is also its folder's name:
# what torchvision has downloaded is found, and the other way round.
TORCHVISION_CLASS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}

NUM_TRAIN, NUM_TEST = 60_000, 10_000
SIDE = 28
NUM_CLASSES = 10

# torchvision only knows the MD5 of the packed files. These are of the unpacked ones.
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
    """One unpacked file: where it lies, and what it must be."""

    path: Path
    shape: tuple[int, ...]
    md5: str | None

    def read(self) -> np.ndarray:
        """Return the uint8 array; UserError if the file is not what it must be."""
        return read_idx(self.path, self.shape, self.md5)


def idx_files(name: str, data_dir: Path) -> list[IdxFile]:
    """Return train images, train labels, test images, test labels of a published data set."""
    folder = data_dir / TORCHVISION_CLASS[name] / "raw"
    shapes: dict[str, tuple[int, ...]] = {
        "train-images-idx3-ubyte": (NUM_TRAIN, SIDE, SIDE),
        "train-labels-idx1-ubyte": (NUM_TRAIN,),
        "t10k-images-idx3-ubyte": (NUM_TEST, SIDE, SIDE),
        "t10k-labels-idx1-ubyte": (NUM_TEST,),
    }
    md5s = UNPACKED_MD5.get(name, {})
    return [IdxFile(folder / file, shape, md5s.get(file)) for file, shape in shapes.items()]

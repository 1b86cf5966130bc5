"""Write the training images of a data module as files that torchvision's MNIST reads.

The baseline and our training then use the same images: MNIST, the bundled digits or synthetic ones.
"""

import struct
from pathlib import Path

import torch
from torch import Tensor

from diffusion_lab.data.datamodule import ImageDataModule

UNSIGNED_BYTE = 8  # code of the pixel type in the header of an IDX file


def write_torchvision_files(data: ImageDataModule, root: Path) -> Path:
    """Write the one-channel training images to root/MNIST/raw as IDX files; return root.

    The test split, which torchvision also expects, gets a single image.
    """
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images, labels = data.pixels("train")[:, 0], data.labels("train").to(torch.uint8)
    for split, count in (("train", len(images)), ("t10k", 1)):
        _write(folder / f"{split}-images-idx3-ubyte", images[:count])
        _write(folder / f"{split}-labels-idx1-ubyte", labels[:count])
    return root


def _write(path: Path, values: Tensor) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, UNSIGNED_BYTE, values.ndim, *values.shape)
    with path.open("wb") as file:
        file.write(header)
        file.write(values.contiguous().numpy().data)

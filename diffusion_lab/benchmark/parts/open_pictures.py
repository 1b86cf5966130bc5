"""Open a folder of pictures: `python -m diffusion_lab.benchmark.parts.open_pictures`.

The arguments are the folder, the folder of the cache and the batch size. The printed JSON has the
seconds to the first batch, and the memory in bytes after 50 batches.
"""

import json
import sys
import time
from pathlib import Path

from diffusion_lab.benchmark.parts.peak_memory import resident
from diffusion_lab.data.datamodule import ImageDataModule

CHANNELS, SIDE = 3, 32
BATCHES = 50


def picture_data(folder: Path, cache: Path, batch_size: int) -> ImageDataModule:
    """Return the data module of a folder of pictures, as data=images makes it."""
    return ImageDataModule(
        "images",
        source="pictures",
        path=str(folder),
        cache_dir=str(cache),
        channels=CHANNELS,
        image_size=SIDE,
        batch_size=batch_size,
        val_size=None,
    )


def main() -> None:
    """Open the folder, read some batches, and print {"seconds": ..., "memory": ...}."""
    folder, cache, batch_size = sys.argv[1:]
    began = time.perf_counter()
    data = picture_data(Path(folder), Path(cache), int(batch_size))
    data.setup("fit")
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)
    seconds = time.perf_counter() - began
    for _ in range(min(BATCHES, len(loader)) - 1):
        next(batches)
    print(json.dumps({"seconds": seconds, "memory": resident("RssAnon")}))


if __name__ == "__main__":
    main()

"""Choose the source of images (files, generated, downloaded) from the options of data=."""

from collections.abc import Collection, Mapping
from inspect import signature
from typing import Any, Protocol

from diffusion_lab.data.image_set import ImageSet
from diffusion_lab.data.mnist.files import SOURCES, TORCHVISION_CLASS
from diffusion_lab.data.shape import ImageSize, check_channels
from diffusion_lab.errors import UserError, near, unknown_name


class Source(Protocol):
    """Interface of a data set that can be downloaded or decoded, and read."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images if data.image_size= is not set."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes; labels are 0 to num_classes - 1. None if all labels are 0."""

    def prepare(self) -> None:
        """Download or decode what is missing; called in one process per machine."""

    def read(self) -> ImageSet:
        """Return the data set. Raises UserError if it is missing or damaged."""


OPTIONS: dict[str, tuple[str, ...]] = {
    "fake": ("num_images", "num_test_images"),
    "own": ("images", "num_classes"),
    "published": (),
    "torchvision": (),
    "points": ("distribution", "num_points", "num_test_points", "points_seed"),
    "npz": ("path",),
    "pictures": ("path", "labelled", "resize", "background", "unreadable", "cache_dir"),
    "huggingface": (
        "config",
        "split",
        "test_split",
        "image_key",
        "label_key",
        "resize",
        "background",
        "unreadable",
        "cache_dir",
    ),
}
"""Options of data= that only some sources have."""
BY_NAME = ("pictures", "npz", "huggingface")
"""Sources that are chosen by data.source=; all other sources are chosen by data.name=."""


def make_source(
    name: str,
    source: str,
    data_dir: Any,
    channels: int,
    image_size: ImageSize | None,
    options: Mapping[str, Any],
    also: Collection[str] = (),
) -> Source:
    """Return the source that the options ask for, without reading anything.

    Args:
        name: name of the data set, data.name=.
        source: auto, full, bundled, pictures, npz or huggingface.
        data_dir: the data folder, None for the default.
        channels: channels of an image.
        image_size: side, or height and width; None for the original size.
        options: values of those options in OPTIONS that the user set.
        also: options that are valid for every source, because the caller reads them.

    Raises:
        UserError: for an option that the source does not have, or an option with an invalid value.

    """
    check_channels(channels)
    kind = _kind(name, source, options)
    options = {k: v for k, v in options.items() if k in OPTIONS[kind] or k not in also}
    for option in options:
        if option not in OPTIONS[kind]:
            if kind == "own":
                raise UserError(
                    f"data.{option} has no effect on {name}: leave out data.{option}=, or pass it "
                    f"to your function by data.images.{option}="
                )
            takers = [word for word, own in OPTIONS.items() if option in own]
            if not takers:
                from diffusion_lab.data.datamodule import ImageDataModule

                known = sorted({known for own in OPTIONS.values() for known in own})
                known += [p for p in signature(ImageDataModule).parameters if p != "options"]
                meant = near(option, known)
                raise UserError(
                    f"data.{option} is unknown: "
                    + (f"did you mean {' or '.join(meant)}?" if meant else f"choose from {known}")
                )
            raise UserError(
                f"data.{option} has no effect on the data set {name}: leave it out, because "
                f"data.{option}= belongs to {' and '.join(_WORDS[taker] for taker in takers)}"
            )
    if kind == "own":
        from diffusion_lab.data.sources.own import OwnImages

        return OwnImages(name, source, channels, image_size, **options)
    if kind == "fake":
        from diffusion_lab.data.sources.fake import FakeImages

        return FakeImages(channels, 28 if image_size is None else image_size, **options)
    if kind == "points":
        from diffusion_lab.data.sources.points import Points

        return Points(channels, image_size, **options)
    if kind == "torchvision":
        from diffusion_lab.data.sources.torchvision_sets import TorchvisionImages

        return TorchvisionImages(name, source, data_dir, channels, image_size)
    if kind == "published":
        from diffusion_lab.data.sources.published import PublishedImages

        return PublishedImages(name, source, data_dir, channels, image_size)
    if image_size is None:
        raise UserError(
            f"data.image_size=null: expected a size for the images of {name}; type for example "
            "data.image_size=32, or data.image_size=[24,32] for height and width"
        )
    if kind == "npz":
        from diffusion_lab.data.sources.npz import NpzImages

        return NpzImages(name, channels, image_size, **options)
    if kind == "pictures":
        from diffusion_lab.data.sources.picture_files import PictureFiles

        return PictureFiles(name, channels, image_size, **options)
    from diffusion_lab.data.sources.huggingface import HuggingFaceImages

    return HuggingFaceImages(name, channels, image_size, **options)


_WORDS = {
    "fake": "data=fake",
    "own": "data.images=<your function>",
    "points": "data=points",
    "npz": "data=npz",
    "pictures": "data=images",
    "huggingface": "data=hf",
}
GENERATED = ("fake", "points")
TORCHVISION = ("cifar10", "cifar100", "svhn")
BUILT_IN = (*TORCHVISION_CLASS, *TORCHVISION, *GENERATED)


def _kind(name: str, source: str, options: Mapping[str, Any]) -> str:
    if "images" in options or source in BY_NAME:
        if name in BUILT_IN:
            other = "type another data.name="
            if source == "huggingface":
                other = "type the full name, <owner>/<name>, or the folder's path, ./<name>"
            raise UserError(
                f"data.name={name} is a built-in data set, whose statistics would be used to "
                f"score your images: {other}"
            )
        return "own" if "images" in options else source
    if source not in SOURCES and source not in BY_NAME:
        raise UserError(unknown_name("data.source", source, [*SOURCES, *BY_NAME]))
    if name not in BUILT_IN and {"path", "split"} & {*options}:
        usual = "huggingface" if "split" in options else "pictures or npz"
        raise UserError(
            f"data.source={source} has no effect on the images of {name}: leave out data.source=, "
            f"which is {usual} for images of your own"
        )
    if name not in BUILT_IN:
        raise UserError(unknown_name("data", name, [*BUILT_IN, "images", "npz", "hf"]))
    if name in GENERATED:
        return name
    return "torchvision" if name in TORCHVISION else "published"

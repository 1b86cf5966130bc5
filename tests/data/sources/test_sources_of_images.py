"""data=npz, cifar10, hf and images through ImageDataModule, and wrong options of each."""

import pickle
import sys
from dataclasses import fields
from inspect import signature

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from diffusion_lab.config.schema.data import SourceConfig
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.sources import OPTIONS
from diffusion_lab.data.sources.fake import FakeImages
from diffusion_lab.data.sources.huggingface import HuggingFaceImages
from diffusion_lab.data.sources.npz import NpzImages
from diffusion_lab.data.sources.own import OwnImages
from diffusion_lab.data.sources.picture_files import PictureFiles
from diffusion_lab.data.sources.points import Points
from diffusion_lab.data.sources.published import PublishedImages
from diffusion_lab.data.sources.torchvision_sets import TorchvisionImages
from diffusion_lab.errors import UserError
from tests.cli.test_bad_input import assert_refused
from tests.support.forked import ROOT


def pixels(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def loaded(**options):
    module = ImageDataModule(**options)
    module.setup()
    return module


def test_a_missing_package_is_named_before_the_data_are_looked_for(typed, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    words = ("model=flow", "trainer.accelerator=cpu", "data=hf", "data.name=a/b")
    result = typed("train", *words)
    assert_refused(result, "pip install 'diffusion_lab[hf]'")


def test_a_source_of_built_in_data_does_not_fit_pictures(typed, tmp_path):
    words = ("data=images", f"data.path={tmp_path}", "data.source=bundled")
    told = "data.source=bundled has no effect on the images of images: leave out data.source="
    assert_refused(typed("explain", *words), told)


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_npz_with_both_splits(tmp_path, last):
    train, test = pixels(30, 3, 6, 8), pixels(5, 3, 6, 8, seed=1)
    labels = np.arange(30) % 4
    shown = [x.transpose(0, 2, 3, 1) if last else x for x in (train, test)]
    np.savez(
        tmp_path / "a.npz", images=shown[0], labels=labels,
        test_images=shown[1], test_labels=labels[:5],
    )  # fmt: skip
    options = {"source": "npz", "path": str(tmp_path / "a.npz"), "channels": 3}
    module = loaded(name="mine", image_size=[6, 8], val_size=10, **options)
    assert module.num_classes == 4
    assert torch.equal(module.pixels("test"), torch.from_numpy(test))
    found = {tuple(x.flatten().tolist()): int(y) for split in ("train", "val")
             for x, y in zip(module.pixels(split), module.labels(split), strict=True)}  # fmt: skip
    assert found == {
        tuple(x.flatten().tolist()): int(y) for x, y in zip(train, labels, strict=True)
    }


def test_npz_without_labels_or_test_split(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", arr_0=pixels(40, 5, 5))
    options = {"source": "npz", "path": str(tmp_path / "a.npz"), "channels": 1, "image_size": 5}
    module = loaded(name="mine", val_size=None, **options)
    assert module.num_classes is None
    counts = {split: len(module.labels(split)) for split in ("train", "val", "test")}
    assert counts == {"train": 33, "val": 3, "test": 4}
    assert not any(module.labels(split).any() for split in counts)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pixels": pixels(9, 5, 5)}, ["no array `images`"]),
        ({"images": pixels(9, 5, 5).astype(float)}, ["images is float64 (9, 1, 5, 5)"]),
        ({"images": pixels(9, 6, 5)}, ["images is uint8 (9, 1, 6, 5)", "(N, 1, 5, 5)"]),
        ({"images": pixels(9, 5, 5), "labels": np.arange(8)}, ["9 images and 8 labels"]),
        ({"images": pixels(9, 5, 5), "labels": np.arange(9) - 1}, ["from 0 to 255"]),
        ({"images": pixels(9, 5, 5), "labels": np.arange(9) / 2}, ["labels is float64"]),
        (
            {"images": np.array([{}, {}], dtype=object)},
            ["is damaged or no .npz file", "without arrays of objects"],
        ),
        (
            {
                "images": pixels(9, 5, 5),
                "labels": np.arange(9) % 3,
                "test_images": pixels(2, 5, 5),
                "test_labels": [2, 3],
            },
            ["test_labels go to 3, labels only to 2"],
        ),
    ],
)
def test_npz_mistakes(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    options = {"source": "npz", "path": str(tmp_path / "a.npz"), "channels": 1, "image_size": 5}
    with pytest.raises(UserError) as raised:
        loaded(name="mine", **options)
    for word in words:
        assert word in str(raised.value)
    assert "\n" not in str(raised.value)


def test_npz_that_is_no_npz(tmp_path):
    (tmp_path / "a.npz").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match=r"is damaged or no \.npz file"):
        loaded(name="m", source="npz", path=str(tmp_path / "a.npz"), channels=1, image_size=5)
    with pytest.raises(UserError, match="is no file"):
        loaded(name="m", source="npz", path=str(tmp_path), channels=1, image_size=5)


def test_hugging_face_set_on_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["x", "y", "z"])}
    )
    shown = pixels(30, 6, 8, 3)
    rows = {"picture": [Image.fromarray(x) for x in shown], "kind": [k % 3 for k in range(30)]}
    table = datasets.Dataset.from_dict(rows, features=features)
    splits = {"train": table, "held_out": table.select(range(4))}
    nulls = datasets.Dataset.from_dict(rows | {"kind": [None] * 30}, features=features)
    splits |= {"unlabelled": table.remove_columns("kind"), "nulls": nulls}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set")
    options = {"source": "huggingface", "channels": 3, "cache_dir": str(tmp_path / "cache")}
    module = loaded(
        name=str(tmp_path / "set"), image_size=[6, 8], val_size=5, test_split="held_out", **options
    )
    assert module.num_classes == 3 and module.provenance["classes"] == "x, y, z"
    assert (module.pixels("test").numpy() == shown[:4].transpose(0, 3, 1, 2)).all()
    assert module.labels("test").tolist() == [0, 1, 2, 0]
    for wrong, message in (
        ({"test_split": "tset"}, r"data\.test_split=tset is unknown"),
        ({"test_split": "unlabelled"}, r"data\.test_split=unlabelled .* has no column kind"),
        ({"split": "nulls"}, r"data\.split=nulls .* rows without a label"),
        ({"image_key": "kind"}, "data.image_key=kind is unknown"),
        ({"label_key": "kinds"}, "did you mean kind"),
    ):
        with pytest.raises(UserError, match=message):
            loaded(name=str(tmp_path / "set"), image_size=[6, 8], **options | wrong)
    with pytest.raises(UserError, match="cannot be loaded"):
        loaded(name=str(tmp_path / "cache"), image_size=[6, 8], **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "mnist", "resize": "crop"}, ["data.resize has no effect", "data=images"]),
        ({"name": "mnist", "channels": 3}, ["1 channel"]),
        ({"name": "cifar10", "channels": 1}, ["data.channels=3"]),
        ({"name": "cifar10", "channels": 3, "image_size": 30}, ["expected 32 or a larger"]),
        ({"name": "x", "source": "pictures", "image_size": 8}, ["data.path= is missing"]),
        ({"name": "mnist", "source": "pictures", "path": "."}, ["is a built-in data set"]),
        ({"name": "cifar10", "images": dict}, ["is a built-in data set"]),
        ({"name": "mnist", "source": "huggingface"}, ["a built-in data set", "<owner>/<name>"]),
        ({"name": "x", "source": "pictures", "path": "."}, ["data.image_size=null"]),
        ({"name": "fake", "nonsense": 1}, ["data.nonsense is unknown"]),
        ({"name": "fake", "val_sise": 3}, ["did you mean val_size"]),
        ({"name": "fake", "source": "banana"}, ["data.source=banana", "bundled", "pictures"]),
        ({"name": "cifra10"}, ["did you mean cifar10"]),
        ({"name": "qqq"}, ["svhn", "images"]),
        ({"name": "fake", "image_size": [8, 8, 8]}, ["data.image_size=[8,8,8]"]),
        ({"name": "fake", "image_size": "wide"}, ["data.image_size=wide"]),
        ({"name": "fake", "channels": 0}, ["data.channels=0"]),
    ],
)
def test_options_that_do_not_fit_the_source(options, words):
    with pytest.raises(UserError) as raised:
        ImageDataModule(**options)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resize": "corp"}, ["did you mean crop"]),
        ({"background": "whiet"}, ["data.background=whiet", "'#808080'"]),
        ({"unreadable": "ignore"}, ["choose from stop, skip"]),
        ({"labelled": "maybe"}, ["data.labelled=maybe"]),
        ({"channels": 2}, ["data.channels=2", "a.png is a picture"]),
        ({"channels": 2, "source": "huggingface"}, ["data.channels=2", "data=hf reads pictures"]),
    ],
)
def test_wrong_words_of_pictures(tmp_path, options, words):
    for name in "ab":
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    options = {"source": "pictures", "image_size": 8} | options
    if options["source"] == "pictures":
        options["path"] = str(tmp_path)
    with pytest.raises(UserError) as raised:
        loaded(name="x", unreadable=options.pop("unreadable", "skip"), **options)
    for word in words:
        assert word in str(raised.value)


def test_flip_mirrors_half_of_the_training_images_only():
    """In a Trainer, as a command trains; each image is itself or its mirror image."""
    import lightning as L

    class Record(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.seen = {"train": [], "val": []}
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch, index):
            self.seen["train"].append(batch[0])
            return self.weight.sum()

        def validation_step(self, batch, index):
            self.seen["val"].append(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    data = ImageDataModule("fake", num_images=300, val_size=100, batch_size=50, flip=True)
    module = Record()
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, num_sanity_val_steps=0, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    assert torch.equal(torch.cat(module.seen["val"]), data.value_range.encode(data.pixels("val")))
    originals = data.value_range.encode(data.pixels("train"))[data._train_loader.order(0)]
    seen = torch.cat(module.seen["train"])
    same = (seen == originals).flatten(1).all(1)
    mirrored = (seen == originals.flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all() and 60 < mirrored.sum() < 140


@pytest.mark.parametrize("file", ["images", "npz", "hf"])
def test_every_option_of_a_source_is_in_its_yaml_file(file):
    """evaluate.py data=... has no schema: it accepts what the file lists."""
    listed = yaml.safe_load((ROOT / "configs" / "data" / f"{file}.yaml").read_text())
    assert set(OPTIONS[listed["source"]]) <= listed.keys()


def test_a_configuration_on_the_hub_is_asked_for(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(*arguments):
        asked.append(arguments)
        raise ValueError("Config name is missing.")

    monkeypatch.setattr(datasets, "load_dataset", load)
    for config in (None, "small"):
        with pytest.raises(UserError, match=r"data\.config="):
            loaded(name="a/b", source="huggingface", channels=3, image_size=8, config=config)
    assert asked == [("a/b", None), ("a/b", "small")]


@pytest.mark.parametrize("kind", [*OPTIONS])
def test_options_are_the_arguments_of_the_source(kind):
    """The table, the schema and the constructors name the same options."""
    made = {
        "fake": FakeImages,
        "own": OwnImages,
        "points": Points,
        "published": PublishedImages,
        "torchvision": TorchvisionImages,
        "npz": NpzImages,
        "pictures": PictureFiles,
        "huggingface": HuggingFaceImages,
    }[kind]
    common = {"name", "source", "data_dir", "channels", "image_size"}
    assert {*OPTIONS[kind]} == signature(made).parameters.keys() - common
    in_schema = {field.name for field in fields(SourceConfig)} | {"num_test_images"}
    assert {*OPTIONS[kind]} <= in_schema

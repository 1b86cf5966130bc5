"""scripts/edit.py: every edit writes its figure; a mistake gives one line and no folder."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from diffusion_lab import load_run
from diffusion_lab.commands.edit.edits import EDITS
from diffusion_lab.commands.edit.input_images import read_images, read_mask
from diffusion_lab.config.groups import words
from diffusion_lab.config.resolvers import register
from diffusion_lab.config.search_path import CONFIG_DIR
from diffusion_lab.data.mnist.files import idx_files
from tests.cli.test_bad_input import assert_refused
from tests.config.test_options import blank_idx
from tests.conftest import last_line

SMALL = ("num_steps=4", "images=test:0-1", "accelerator=cpu")
SHORT = {
    "inpaint": ("num_samples=3", "jump_length=1"),
    "image_to_image": ("num_samples=3",),
    "interpolate": ("num_points=4",),
    "invert": (),
}


def image_file(path, size=(28, 28), mode="L", color=255):
    Image.new(mode, size, color).save(path)
    return path


@pytest.mark.parametrize("model", ["basic_unet", "ddpm"])
@pytest.mark.parametrize("edit", SHORT)
def test_every_edit_writes_its_figure(typed, trained, tmp_path, edit, model):
    run = trained[model]
    code, out, err = typed("edit", f"run={run}", f"edit={edit}", *SMALL, *SHORT[edit])
    assert code == 0, err
    folder = Path(out.strip().splitlines()[-1])
    assert folder.parent == run / "edits"
    assert sorted(p.name for p in folder.iterdir()) == ["edit.json", "edit.npz", "edit.png"]
    with Image.open(folder / "edit.png") as figure:
        assert min(figure.size) > 40
    arrays = np.load(folder / "edit.npz")
    original, edited = arrays["original"], arrays["edited"]
    assert original.shape == (2, 1, 28, 28) and original.dtype == edited.dtype == np.uint8
    counts = {"inpaint": (2, 3), "image_to_image": (2, 3), "interpolate": (1, 4), "invert": (2, 1)}
    assert edited.shape == (*counts[edit], 1, 28, 28)
    record = json.loads((folder / "edit.json").read_text())
    assert record["edit"] == edit and record["images"] == ["test:0", "test:1"]
    if edit in ("interpolate", "invert"):
        [(name, value)] = record["measured"].items()
        assert f"{name}: {value:.4f}" in out
    if edit == "invert":
        error = (original[:, None] / 255.0 - edited / 255.0) ** 2
        assert value == pytest.approx(error.mean() ** 0.5, abs=0.002)  # of whole gray levels
    if edit == "inpaint":
        known = arrays["known"]
        assert known[:, :14].all() and not known[:, 14:].any()
        assert (edited == original[:, None])[..., known].all()
        assert record["seed"] == 0


def test_an_edit_is_reproducible_and_overwrites_nothing(command, trained, typed, tmp_path):
    """Once in a process of its own and once in this one: the same images."""
    arguments = (f"run={trained['ddpm']}", "edit=image_to_image", *SMALL, "num_samples=2")
    out = last_line(command("edit", *arguments, "out=mine"))
    assert out == tmp_path / "mine"
    code, again, err = typed("edit", *arguments[:-1], "num_samples=1", "out=other")
    assert code == 0, err
    first, second = (np.load(Path(d) / "edit.npz")["edited"] for d in (out, again.split()[-1]))
    assert np.abs(first[:, :1].astype(int) - second.astype(int)).max() <= 1  # sample k by itself
    assert_refused(typed("edit", *arguments, "out=mine"), "out=mine", "is not empty")


def test_image_files_are_converted_to_the_runs_channels(typed, trained, tmp_path):
    pixels = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)
    Image.fromarray(pixels).save(tmp_path / "gray.png")
    image_file(tmp_path / "red.png", mode="RGB", color=(255, 0, 0))
    image_file(tmp_path / "opaque.png", mode="RGBA", color=(255, 255, 255, 255))
    run = load_run(trained["basic_unet"])
    given = [str(tmp_path / f"{name}.png") for name in ("gray", "red", "opaque")]
    names, images = read_images(given, run, None)
    assert names == ["gray", "red", "opaque"] and images.shape == (3, 1, 28, 28)
    assert (images[0, 0].numpy() == pixels).all()
    assert (images[1] == 76).all() and (images[2] == 255).all()  # 0.299 of red
    # by the rules for the pictures of a training: the background, 16 bits, EXIF
    Image.new("RGBA", (28, 28), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    given = [*given, *(str(tmp_path / f"{name}.png") for name in ("clear", "deep", "turned"))]
    clear, deep, upright = read_images(given, run, None)[1][3:, 0].numpy()
    assert (clear == 255).all() and (deep == pixels).all()
    assert (upright == np.rot90(pixels, -1)).all()
    color = replace(run, image_shape=(3, 28, 28))
    assert read_images(given[1], color, None)[1][0, :, 0, 0].tolist() == [255, 0, 0]

    mask = np.zeros((28, 28), dtype=np.uint8)
    mask[3:9, 5:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    known = read_mask(str(tmp_path / "mask.png"), (1, 28, 28))
    assert (known.numpy() == (mask == 0)).all()
    assert (~read_mask("center", (1, 28, 28))).sum() == 14 * 14
    code, _, err = typed(
        "edit",
        f"run={run.dir}",
        "edit=inpaint",
        "images=[gray.png,test:3]",
        "mask=mask.png",
        "num_steps=2",
        "num_samples=1",
    )
    assert code == 0, err


def test_the_current_data_folder_beats_the_recorded_one(trained, tmp_path, monkeypatch):
    """paths.data_dir and DIFFUSION_LAB_DATA win over the folder recorded in training."""
    for file in idx_files("fashion_mnist", tmp_path):
        blank_idx(file.path, file.shape)
    run = load_run(trained["basic_unet"])
    gone = {"name": "fashion_mnist", "source": "full", "data_dir": "/nowhere", "num_images": None}
    moved = replace(run, config=run.config | {"data": run.config["data"] | gone})
    names, images = read_images("test:9998-9999", moved, str(tmp_path))
    assert names == ["test:9998", "test:9999"] and images.shape == (2, 1, 28, 28)

    def data_dir(*overrides):
        register("edit")
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return compose("edit", ["edit=invert", *overrides]).paths.data_dir

    monkeypatch.setenv("DIFFUSION_LAB_DATA", "from_the_environment")
    assert data_dir() == "from_the_environment"
    assert data_dir("paths.data_dir=typed") == "typed"
    monkeypatch.delenv("DIFFUSION_LAB_DATA")
    assert data_dir() is None


def test_every_edit_has_an_option_and_every_option_an_edit():
    assert words("edit") == sorted(EDITS) == sorted(SHORT)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edit=invert", "run="], ["run= is missing"]),
        (["run=nowhere", "edit=invert"], ["run=nowhere is no folder"]),
        (["run={run}"], ["edit=", "inpaint", "invert"]),
        (["run={run}", "edit=paint"], ["edit=paint is unknown", "did you mean inpaint"]),
        (["run={run}", "edit=invert", "strength=0.5"], ["strength"]),
        (["run={run}", "edit=invert", "seed=1"], ["seed"]),
        (["run={run}", "edit=invert", "+mask=left"], ["mask"]),
        (["run={run}", "edit=invert", "images=gone.png"], ["gone.png", "no such file", "test:3"]),
        (["run={run}", "edit=invert", "images=text.png"], ["text.png", "cannot be read"]),
        (["run={run}", "edit=invert", "images=broken.png"], ["broken.png", "cannot be read"]),
        (["run={run}", "edit=invert", "images=wide.png"], ["expected 28 x 28", "got 28 x 30"]),
        (["run={run}", "edit=invert", "images=test:1000"], ["1000", "0 to 999"]),
        (["run={run}", "edit=invert", "images=test:3-2"], ["test:3-2", "0 to 999"]),
        (["run={run}", "edit=invert", "images=valid:3"], ["valid:3", "test:3"]),
        (["run={run}", "edit=invert", "images=[]"], ["images=[]", "test:3"]),
        (["run={run}", "edit=invert", "images=3"], ["images=3", "test:3"]),
        (["run={run}", "edit=invert", "num_steps=0"], ["num_steps=0"]),
        (["run={run}", "edit=invert", "checkpoint=first"], ["best or last"]),
        (["run={run}", "edit=invert", "accelerator=gpu"], ["accelerator=gpu"]),
        (["run={run}", "edit=invert", "out=/proc/nowhere"], ["out=/proc/nowhere"]),
        (["run={ddpm}", "edit=invert", "num_steps=1001"], ["error: num_steps", "1000 timesteps"]),
        (["run={run}", "edit=interpolate", "images=test:0-2"], ["even number", "got 3"]),
        (["run={run}", "edit=interpolate", "num_points=1"], ["num_points=1"]),
        (["run={run}", "edit=image_to_image", "strength=0"], ["strength=0", "at most 1"]),
        (["run={run}", "edit=image_to_image", "strength=1.5"], ["strength=1.5"]),
        (["run={run}", "edit=image_to_image", "strength=x"], ["strength"]),
        (["run={run}", "edit=image_to_image", "num_samples=0"], ["num_samples=0"]),
        (["run={run}", "edit=image_to_image", "seed=-1"], ["seed=-1"]),
        (["run={run}", "edit=inpaint", "num_samples=0"], ["num_samples=0"]),
        (["run={run}", "edit=inpaint", "mask=half"], ["mask=half", "left", "center"]),
        (["run={run}", "edit=inpaint", "mask=wide.png"], ["mask=wide.png", "got 28 x 30"]),
        (["run={run}", "edit=inpaint", "mask=black.png"], ["mask=black.png is all black", "white"]),
        (["run={run}", "edit=inpaint", "resamplings=3"], ["uniform", "resamplings=1"]),
        (["run={ddpm}", "edit=inpaint", "jump_length=50"], ["jump_length=50", "num_steps=50"]),
        (["run={ddpm}", "edit=inpaint", "jump_length=0"], ["jump_length=0", "at least 1"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_edit_rejects_bad_input(typed, trained, tmp_path, arguments, words):
    (tmp_path / "text.png").write_text("not an image")
    whole = image_file(tmp_path / "white.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[: len(whole) // 2])
    image_file(tmp_path / "wide.png", size=(30, 28))
    image_file(tmp_path / "black.png", color=0)
    run, ddpm = trained["basic_unet"], trained["ddpm"]
    before = [*run.rglob("*"), *ddpm.rglob("*")]
    assert_refused(typed("edit", *(a.format(run=run, ddpm=ddpm) for a in arguments)), *words)
    assert [*run.rglob("*"), *ddpm.rglob("*")] == before

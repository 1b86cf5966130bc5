"""A folder of pictures through the commands, as a user would type them."""

import json

import numpy as np
import pytest
from PIL import Image

from diffusion_lab import load_run
from tests.cli.test_bad_input import assert_refused
from tests.conftest import PICTURED

SMALL = (
    "data=images",
    "data.batch_size=4",
    "model=flow",
    "network=unet_fast",
    "network.width=8",
    "network.depth=1",
    *(word for word in PICTURED if not word.startswith("data")),
)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two classes of colour pictures, 20 x 30, in folders of splits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    noise = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 12)):
        for k in range(count):
            path = tmp_path / "my pictures" / split / ("cat", "dog")[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return tmp_path / "my pictures"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["data.channels=3", "data.image_size=[8,12]", "data.resize=crop", "data.flip=true"],
        pytest.param(
            ["data.channels=4", "data.image_size=12", "data.resize=pad", "model.num_classes=2"],
            marks=pytest.mark.exhaustive,
        ),
        pytest.param(
            ["data.channels=1", "data.image_size=[20,28]", "data.resize=stretch", "model=edm"],
            marks=pytest.mark.exhaustive,
        ),
    ],
    ids=["3 channels", "4 channels", "1 channel"],
)
def test_pictures_through_all_commands(typed, pictures, tmp_path, words):
    run = tmp_path / "run"
    code, out, err = typed("train", *SMALL, f"data.path={pictures}", *words, f"hydra.run.dir={run}")
    assert code == 0, out + err
    record = json.loads((run / "metrics.json").read_text())
    assert record["status"] == "finished" and record["data"]["classes"] == "cat, dog"
    shape = load_run(run).image_shape
    for name in ("samples.png", "corruption.png", "trajectory.png"):
        assert (run / "figures" / name).is_file()

    code, out, err = typed("sample", f"run={run}", "num_samples=3")
    assert code == 0, out + err
    [folder] = (run / "samples").iterdir() if (run / "samples").is_dir() else [out.split()[-1]]
    with np.load(f"{folder}/samples.npz") as made:
        assert made["images"].shape == (3, *shape) and made["images"].dtype == np.uint8
    for more in (["edit=inpaint", "mask=right"], ["edit=interpolate"], ["edit=invert"]):
        code, out, err = typed("edit", f"run={run}", *more, "num_steps=12")
        assert code == 0, out + err
    code, out, err = typed("diagnose", f"run={run}", "num_samples=4", "num_images=4")
    assert code == 0, out + err
    code, out, err = typed("export", f"run={run}", f"out={tmp_path / 'exported'}")
    assert code == 0, out + err
    resumed = typed("train", f"resume={run}", "trainer.max_epochs=2")
    assert resumed[0] == 0, resumed


def test_a_changed_picture_does_not_continue_a_run(typed, pictures, tmp_path):
    words = [*SMALL, "data.image_size=8", "data.resize=crop", "callbacks=minimal"]
    words = [word for word in words if not word.startswith(("callbacks.", "sampler."))]
    run = tmp_path / "run"
    code, out, err = typed("train", *words, f"data.path={pictures}", f"hydra.run.dir={run}")
    assert code == 0, out + err
    Image.new("RGB", (30, 20)).save(pictures / "train" / "cat" / "0.png")
    refused = typed("train", f"resume={run}", "trainer.max_epochs=2")
    assert_refused(refused, "this run was trained on images", "sha256")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.path=nowhere"], ["data.path=nowhere does not exist"]),
        ([], ["data.path= is missing"]),
        (["data.path={}"], ["is 20 x 30 pixels", "data.resize=crop, pad or stretch"]),
        (["data.path={}", "data.resize=corp"], ["did you mean crop"]),
        (["data.path={}", "data.resize=crop", "model.num_classes=3"], ["has 2 classes", "=2"]),
        (["data.path={}/train/cat", "data.resize=crop", "model.num_classes=2"], ["no labels"]),
        (["data.path={}/train", "data.resize=crop", "data.image_size=[9,12]"], ["multiple of 4"]),
        (["data.path={}/test", "data.resize=crop", "data.val_size=50"], ["data.val_size=50"]),
        (["data.path={}", "data.image_size=[8,8,8]"], ["data.image_size=[8,8,8]"]),
        (["data=npz", "data.path={}"], ["is no file"]),
    ],
)
def test_mistakes_about_pictures_give_one_line(typed, pictures, words, said):
    words = [word.format(pictures) for word in words]
    assert_refused(typed("train", *SMALL, *words), *said)

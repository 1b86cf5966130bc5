"""Runs on a folder of pictures: teaching a student, and after the folder has moved."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.errors import UserError
from diffusion_lab.runs.data import run_data
from diffusion_lab.training.reflow import read_teacher, use_parts_of
from tests.conftest import TINY

SMALL = [*TINY[2:], "data.image_size=8", "network.width=8", "network.depth=1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with pictures in `here`, and the folder `run` of a training on them."""
    home = tmp_path_factory.mktemp("home")
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 3)):
        (home / "here" / split).mkdir(parents=True)
        for k in range(count):
            pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(home / "here" / split / f"{k}.png")
    words = [*SMALL, "data=images", f"data.path={home / 'here'}", f"data.cache_dir={home / 'c'}"]
    train(compose_config([*words, "model=flow", "data.val_size=4"], home / "run"))
    return home


def student(home, *words):
    beside = ["experiment=one_step", "teacher.guidance_scale=1", "sampler@teacher.sampler=blend"]
    return compose_config([*SMALL[:-2], *beside, f"teacher.run={home / 'run'}", *words])


def test_a_student_takes_over_the_source_of_its_teacher(home):
    cfg = student(home, f"data.path={home / 'there'}")
    taken = use_parts_of(read_teacher(cfg), cfg)["data"]
    theirs = load_run(home / "run").config["data"]
    assert (taken["source"], taken["unreadable"]) == ("pictures", "stop")
    assert taken["cache_dir"] == theirs["cache_dir"]
    assert taken["path"] == str(home / "there"), "the pictures may have moved"
    cfg = student(home, "data.resize=crop")
    with pytest.raises(UserError, match=r"leave out data\.resize=crop"):
        use_parts_of(read_teacher(cfg), cfg)


def test_moved_pictures(home):
    run = load_run(home / "run")
    before = run_data(run, None).provenance["sha256"]
    (home / "here").rename(home / "there")
    with pytest.raises(UserError, match=r"paths\.data_path=<where its images lie now>"):
        run_data(run, None)
    assert run_data(run, None, str(home / "there")).provenance["sha256"] == before
    (home / "there").rename(home / "here")
    published = SimpleNamespace(config={"data": {"name": "mnist"}})
    with pytest.raises(UserError, match=r"paths\.data_path=x has no effect"):
        run_data(published, None, "x")


@pytest.mark.slow
def test_moved_pictures_on_the_command_line(home, typed):
    (home / "here").rename(home / "there")
    code, out, err = typed(
        *("edit", f"run={home / 'run'}", "edit=inpaint", "mask=left", "images=test:0"),
        *("num_steps=4", "jump_length=1", f"paths.data_path={home / 'there'}"),
    )
    assert code == 0, out + err
    words = [f"data.path={home / 'there'}", "trainer.max_epochs=2"]
    code, out, err = typed("train", f"resume={home / 'run'}", *words)
    assert code == 0, out + err

"""A run that is taken up, and what is done with it later, finds the images it was trained on."""

import json

import pytest

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.runs.data import run_data
from tests.cli.test_bad_input import assert_refused
from tests.conftest import RUN
from tests.data.conftest import tiny_files

SHORT = ("data=mnist", *RUN[2:], "trainer.max_epochs=1")


def of_data(run):
    return json.loads((run / "metrics.json").read_text())["data"]


def test_bundled_images_stay_those_of_a_run(typed, tmp_path, monkeypatch):
    """Also where the full set has come since: DIFFUSION_LAB_DATA names it, nobody else."""
    monkeypatch.delenv("DIFFUSION_LAB_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    train(compose_config(SHORT, run))
    before = of_data(run)
    assert before["source"] == "bundled"
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in tiny_files().items():
        (raw / name).write_bytes(content)
    monkeypatch.setenv("DIFFUSION_LAB_DATA", str(tmp_path / "data"))
    code, _, err = typed("train", f"resume={run}", "trainer.max_epochs=2")
    assert code == 0, err
    assert of_data(run) == before
    assert run_data(load_run(run), str(tmp_path / "data")).provenance == before


def test_other_images_are_refused(typed, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(compose_config(RUN, run))
    before = of_data(run)
    others = property(lambda self: before | {"sha256": "0" * 64})
    monkeypatch.setattr(ImageDataModule, "provenance", others)
    result = typed("train", f"resume={run}", "trainer.max_epochs=3")
    assert_refused(result, "trained on other images (fake, ", before["sha256"][:8], "00000000)")


@pytest.mark.parametrize("edit", ["inpaint", "image_to_image", "interpolate", "invert"])
def test_an_edit_looks_where_the_environment_says(edit, typed, monkeypatch):
    monkeypatch.setenv("DIFFUSION_LAB_DATA", "/some/where")
    code, out, err = typed("edit", "run=none", f"edit={edit}", "--cfg", "job", "--resolve")
    assert code == 0, err
    assert "data_dir: /some/where" in out

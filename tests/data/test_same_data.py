"""A resumed run, and later commands on a run, use the images that the run was trained on."""

import json

import pytest

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import UserError
from diffusion_lab.runs.data import run_data
from diffusion_lab.training.initialization import check_same_data
from tests.cli.test_bad_input import assert_refused
from tests.conftest import RUN
from tests.data.conftest import tiny_files

SHORT = ("data=mnist", *RUN[2:], "trainer.max_epochs=1")


def data_record(run):
    return json.loads((run / "metrics.json").read_text())["data"]


@pytest.mark.slow
def test_a_run_keeps_its_bundled_images(typed, tmp_path, monkeypatch):
    """Even after DIFFUSION_LAB_DATA is set to a folder with the full set."""
    monkeypatch.delenv("DIFFUSION_LAB_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    train(compose_config(SHORT, run))
    before = data_record(run)
    assert before["source"] == "bundled"
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in tiny_files().items():
        (raw / name).write_bytes(content)
    monkeypatch.setenv("DIFFUSION_LAB_DATA", str(tmp_path / "data"))
    code, _, err = typed("train", f"resume={run}", "trainer.max_epochs=2")
    assert code == 0, err
    assert data_record(run) == before
    assert run_data(load_run(run), str(tmp_path / "data")).provenance == before


def test_resuming_with_other_images_is_rejected(typed, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(compose_config(RUN, run))
    before = data_record(run)
    others = property(lambda self: before | {"sha256": "0" * 64})
    monkeypatch.setattr(ImageDataModule, "provenance", others)
    result = typed("train", f"resume={run}", "trainer.max_epochs=3")
    assert_refused(
        result, f"trained on fake (fake, sha256 {before['sha256'][:8]})", "00000000)", "new run"
    )


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("full", "type paths.data_dir=<folder of the original images>"),
        ("bundled", "start a new run"),
        ("pictures", "restore the files of data.path=, or type data.path=<where they lie now>"),
        ("function", "make data.images._target_ return the original images, or start a new run"),
    ],
)
def test_the_message_on_other_images_names_what_helps(source, remedy):
    before = {"dataset": "mnist", "source": source, "sha256": "1" * 64}
    with pytest.raises(UserError) as raised:
        check_same_data(before, before | {"sha256": "2" * 64})
    assert str(raised.value) == (
        f"this run was trained on mnist ({source}, sha256 11111111), but the images found now are "
        f"mnist ({source}, sha256 22222222): expected the same images; {remedy}"
    )


@pytest.mark.parametrize("edit", ["inpaint", "image_to_image", "interpolate", "invert"])
def test_edit_reads_the_data_folder_of_the_environment(edit, typed, monkeypatch):
    monkeypatch.setenv("DIFFUSION_LAB_DATA", "/some/where")
    code, out, err = typed("edit", "run=none", f"edit={edit}", "--cfg", "job", "--resolve")
    assert code == 0, err
    assert "data_dir: /some/where" in out

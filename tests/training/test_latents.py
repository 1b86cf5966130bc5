"""latents= in train.py: exact resume, and one line for what cannot be."""

import json
import shutil

import pytest

from diffusion_lab.training.rerun import compare_runs
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY, latent_words, trained_once
from tests.support.tiny_vae import save_vae

QUICK = (*TINY, "network=unet_fast", "network.width=8", "network.depth=1")


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(latent_run, tmp_path, tmp_path_factory, typed):
    """From another place: the VAE was moved in between."""
    words = latent_words(tmp_path_factory)
    begun = trained_once(tmp_path_factory, [*words, "trainer.max_epochs=1"])
    half = shutil.copytree(begun, tmp_path / "half")
    record = half / "metrics.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    [vae] = [word.partition("=")[2] for word in words if word.startswith("latents=")]
    other = save_vae(tmp_path / "other", seed=1) and tmp_path / "other"
    resume = ("train", f"resume={half}", "trainer.max_epochs=2")
    said = assert_refused(*typed(*resume, f"latents={other}"))
    assert f"latents={other} has other weights" in said
    shutil.copytree(vae, tmp_path / "moved")
    code, _, err = typed(*resume, f"latents={tmp_path / 'moved'}")
    assert code == 0, err
    assert json.loads(record.read_text())["status"] == "finished"
    assert compare_runs(half, latent_run) == []


@pytest.mark.slow
def test_a_relative_folder_and_every_other_part(typed, tmp_path):
    """Classes, FID left out, a VP path whose samplers clip by default, colour, not square."""
    save_vae(tmp_path / "vae", channels=3)
    code, out, err = typed(
        *(
            "train",
            *QUICK,
            "model=ddpm",
            "latents=vae",
            "data.channels=3",
            "data.image_size=[16,24]",
        ),
        *("sampler.clip_sample=false", "model.num_classes=10", f"data.cache_dir={tmp_path}"),
    )
    assert code == 0, err
    code, out, err = typed("sample", f"run={out.strip().splitlines()[-1]}", "num_samples=4")
    assert code == 0, err


REFUSED = {
    ("latents=nowhere/at/all/far",): "latents=nowhere/at/all/far: there is no such folder, and",
    ("latents=/nowhere",): "latents=/nowhere: no such folder; expected one written by Autoencoder",
    ("latents=empty",): "empty has no config.json: expected a folder written by AutoencoderKL.save",
    ("latents=vae", "data.channels=3"): "data.channels=3: the VAE of latents=",
    ("latents=vae", "data.image_size=27"): "multiples of 2, for example data.image_size=28",
    ("latents=vae", "data.image_size=12"): "(the network gets the latents of latents=",
    ("latents=vae", "data.flip=true"): "data.flip=true with latents=",
    (
        "latents=vae",
        "data.value_range=unbounded",
    ): "works on pixels, but these data are real numbers",
    (
        "latents=vae",
        "model=ddpm",
    ): "DDIMScheduler clips to the range of pixels, but these data are l",
    ("latents=vae", "model.clipped_to=zero_one"): "model.clipped_to=zero_one: ",
    ("latents=vae", "data.cache_dir=file/in"): "data.cache_dir=<a folder that can be written>",
}


@pytest.mark.parametrize("words", REFUSED)
def test_bad_input_is_told_before_anything_is_trained(words, typed, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    save_vae(tmp_path / "vae")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    model = [] if "model=ddpm" in words else ["model=flow"]
    said = assert_refused(*typed("train", *QUICK, *model, *words, f"paths.log_dir={tmp_path}/logs"))
    assert (
        REFUSED[words].replace(
            "works on pixels, but these data are real numbers", "works on pixels"
        )
        in said
    )

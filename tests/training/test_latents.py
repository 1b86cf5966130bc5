"""latents= in train.py: exact resume, FID on decoded images, and one line for what cannot be."""

import json
import shutil
from pathlib import Path

import pytest

from diffusion_lab.training.rerun import compare_runs
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY, latent_words, trained_once
from tests.support.tiny_vae import save_vae

DIT = ("network=dit", "network.patch_size=2", "network.width=16", "network.heads=2")
QUICK = (*TINY, *DIT, "network.depth=1")


def folder(code, out, err):
    assert code == 0, err
    return Path(out.strip().splitlines()[-1])


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(latent_run, tmp_path, tmp_path_factory, typed):
    """Its VAE was moved in between; another one is refused."""
    words = latent_words(tmp_path_factory)
    begun = trained_once(tmp_path_factory, [*words, "trainer.max_epochs=1"])
    half = shutil.copytree(begun, tmp_path / "half")
    record = half / "metrics.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    [vae] = [word.partition("=")[2] for word in words if word.startswith("latents=")]
    shutil.copytree(vae, tmp_path / "moved")
    save_vae(tmp_path / "other", seed=1)
    resume = ("train", f"resume={half}", "trainer.max_epochs=2")
    other = f"latents={tmp_path / 'other'}"
    assert_refused(typed(*resume, other), f"{other} has other weights")
    assert_refused(typed(*resume, "latents=null"), "this run was trained on latents: name its VAE")
    folder(*typed(*resume, f"latents={tmp_path / 'moved'}"))
    assert json.loads(record.read_text())["status"] == "finished"
    assert compare_runs(half, latent_run) == []


@pytest.mark.slow
def test_another_objective_in_colour(typed, tmp_path):
    """Classes, images that are not square, a VAE named from the working directory."""
    save_vae(tmp_path / "vae", channels=3)
    shape = ("data.channels=3", "data.image_size=[16,24]", f"data.cache_dir={tmp_path}")
    more = ("model=ddpm", "sampler.clip_sample=false", "model.num_classes=10", "latents=vae")
    run = folder(*typed("train", *QUICK, *more, *shape))
    folder(*typed("sample", f"run={run}", "num_samples=4"))
    assert_refused(typed("sample", f"run={run}", "sampler=ddpm"), "sampler.clip_sample=false")


@pytest.mark.slow
def test_fid_during_a_training_is_that_of_evaluate(typed, tmp_path, bars):
    save_vae(tmp_path / "vae")
    words = (f"extractor={bars}", "num_samples=70", "batch_size=50")
    fid = ["callbacks=fid", *(f"callbacks.fid.{word}" for word in words)]
    more = ("model=flow", "latents=vae", f"data.cache_dir={tmp_path}")
    run = folder(*typed("train", *QUICK, *fid, *more))
    scored = folder(*typed("evaluate", f"run={run}", *words, "accelerator=cpu"))
    scores, *_ = json.loads((scored / "evaluation.json").read_text())["scores"]
    during = json.loads((run / "metrics.json").read_text())["metrics"]["val/fid"]
    assert scores["fid"] == pytest.approx(during, rel=1e-6)


@pytest.mark.slow
def test_a_run_on_pixels_stays_one(half, typed):
    words = ("trainer.max_epochs=2", "latents=vae")
    said = "latents=vae: this run was trained on pixels: leave it out"
    assert_refused(typed("train", f"resume={half}", *words), said)


REFUSED = {
    ("latents=nowhere/at/all/far",): "latents=nowhere/at/all/far: there is no such folder, and",
    ("latents=/nowhere",): "latents=/nowhere: no such folder; expected one written by Autoencoder",
    ("latents=empty",): "empty has no config.json: expected a folder written by AutoencoderKL.save",
    ("latents=vae", "data.channels=3"): "data.channels=3: the VAE of latents=",
    ("latents=vae", "data.image_size=27"): "multiples of 2, for example data.image_size=28",
    ("latents=vae", "data.image_size=10"): "(the network gets the latents of latents=",
    ("latents=vae", "data.flip=true"): "data.flip=true with latents=",
    ("latents=vae", "data.value_range=unbounded"): "needs pixels, but these data are real",
    ("latents=vae", "augment=edm"): "augment= transforms pixels",
    ("latents=vae", "model=ddpm"): "clips to the range of pixels, but these data are latents of",
    ("latents=vae", "model.clipped_to=zero_one"): "model.clipped_to=zero_one: ",
    ("latents=vae", "data.cache_dir=file/in"): "data.cache_dir=<a folder that can be written>",
}
QUICKLY = 2  # of these, as each is a command


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, marks=[pytest.mark.slow] if number >= QUICKLY else [])
        for number, words in enumerate(reversed(REFUSED))
    ],
)
def test_bad_input_is_told_before_anything_is_trained(words, typed, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    save_vae(tmp_path / "vae")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    model = () if "model=ddpm" in words else ("model=flow",)
    assert_refused(typed("train", *QUICK, *model, *words), REFUSED[words])

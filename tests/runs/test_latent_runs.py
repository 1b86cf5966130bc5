"""A run on latents samples, is scored and edits as one on pixels; its VAE is found and checked."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from diffusion_lab import load_run
from diffusion_lab.diffusion import sample_steps
from tests.cli.test_bad_input import assert_refused
from tests.support.tiny_vae import save_vae

pytestmark = pytest.mark.slow


def record_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def result(code, out, err):
    assert code == 0, err
    return Path(out.strip().splitlines()[-1])


def test_the_run_says_what_it_was_trained_on(latent_run):
    record = record_of(latent_run)
    assert record["status"] == "finished"
    latents = record["data"]["latents"]
    assert len(latents["mean"]) == len(latents["std"]) == 2
    saved = torch.load(latent_run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["data"]["latents"] == latents
    assert Path(saved["config"]["data"]["latents"]).is_absolute()
    assert saved["config"]["network"]["in_channels"] == 2
    assert saved["config"]["network"]["image_size"] == 14
    names = {path.stem for path in (latent_run / "figures").glob("*.png")}
    assert {"data", "corruption", "predictions", "samples", "samples_epoch_001"} <= names


def test_samples_are_latents_that_diffusers_decodes(latent_run, typed):
    folder = result(
        *typed(
            "sample", f"run={latent_run}", "num_samples=5", "batch_size=3", "sampler.num_steps=12"
        )
    )
    images = np.load(folder / "samples.npz")["images"]
    assert images.dtype == np.uint8 and images.shape == (5, 1, 28, 28)
    run = load_run(latent_run)
    assert (run.image_shape, run.value_shape) == ((1, 28, 28), (2, 14, 14))
    sampler, shape = run.sampler(num_steps=12), (2, 14, 14)
    schedule = run.module.noise_schedule
    *_, last = sample_steps(run.module.denoise, schedule, sampler, shape, num_images=5, seed=0)
    scale = record_of(latent_run)["data"]["latents"]
    mean, std = (torch.tensor(scale[name])[:, None, None] for name in ("mean", "std"))
    vae = AutoencoderKL.from_pretrained(run.config["data"]["latents"])
    with torch.no_grad():
        theirs = (vae.decode(last.x_next * std + mean).sample / 2 + 0.5).clamp(0, 1) * 255
    assert np.abs(images - theirs.numpy()).max() <= 0.51
    with Image.open(folder / "denoising.gif") as frames:
        assert frames.n_frames <= 11
    assert sorted(p.suffix for p in folder.iterdir()) == [".gif", ".json", ".npz", ".png", ".png"]


def test_scores_are_those_of_the_decoded_images(latent_run, bars, typed):
    small = (f"extractor={bars}", "num_samples=70", "accelerator=cpu")

    def fid(*words):
        folder = result(*typed("evaluate", *words))
        return json.loads((folder / "evaluation.json").read_text())["scores"][0]["fid"]

    folder = result(*typed("sample", f"run={latent_run}", "num_samples=70", "batch_size=50"))
    of_images = fid(f"images={folder / 'samples.npz'}", "data=fake", *small[::2])
    assert fid(f"run={latent_run}", "batch_size=50", *small) == pytest.approx(of_images, rel=1e-6)


@pytest.mark.parametrize(
    "words",
    [
        ("edit=inpaint", "mask=left", "num_samples=2", "jump_length=1"),
        ("edit=interpolate", "num_points=3"),
    ],
)
def test_edits_begin_with_the_encoded_image(latent_run, typed, words):
    small = ("num_steps=4", "images=test:0-1", "accelerator=cpu")
    folder = result(*typed("edit", f"run={latent_run}", *small, *words))
    arrays = np.load(folder / "edit.npz")
    assert arrays["edited"].dtype == np.uint8 and arrays["edited"].shape[2:] == (1, 28, 28)
    if words[0] == "edit=inpaint":
        assert not arrays["known"][:, :14].any() and arrays["known"][:, 14:].all()
        # away from the mask it is what the VAE makes of the original
        decoder = load_run(latent_run).value_range
        kept = decoder.decode(decoder.encode(torch.from_numpy(arrays["original"]))).numpy()
        difference = np.abs(arrays["edited"].astype(int) - kept[:, None])
        assert difference[..., 26:].mean() < difference[..., :10].mean()


def test_diagnosis_and_what_has_no_likelihood(latent_run, typed):
    small = ("num_images=4", "num_samples=4", "num_held_out=4", "levels=3", "accelerator=cpu")
    folder = result(*typed("diagnose", f"run={latent_run}", *small))
    assert (folder / "diagnose.json").is_file()
    words = ("was trained on latents", "expected a run on pixels")
    assert_refused(typed("likelihood", f"run={latent_run}"), *words)


def test_a_vae_that_is_gone_or_another_is_told(latent_run, typed, tmp_path):
    vae = Path(load_run(latent_run).config["data"]["latents"])
    kept = vae.with_name("kept")
    vae.rename(kept)
    try:
        assert_refused(typed("sample", f"run={latent_run}"), f"latents={vae}: no such folder")
        save_vae(vae, seed=1)
        for command in ("sample", "evaluate", "export"):
            more = (f"out={tmp_path / 'out'}",) if command == "export" else ()
            words = (f"latents={vae} has other weights", "than the VAE of the run")
            assert_refused(typed(command, f"run={latent_run}", *more), *words)
    finally:
        shutil.rmtree(vae, ignore_errors=True)
        kept.rename(vae)

"""The exported folder of a run on latents has its VAE, and decodes without this project."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from diffusion_lab import load_run
from tests.export.test_export import DRAW

# the same blocked import and generators, other images
BEGIN = DRAW.partition("sampled, facts =")[0]
SAMPLE = """
pipe = DiffusionPipeline.from_pretrained("out", trust_remote_code=True)
pipe.decoded_at_once = 2
pipe.set_progress_bar_config(disable=True)
images = pipe(batch_size=3, generator=generators(), output_type="np").images
pipe.save_pretrained("again")
again = DiffusionPipeline.from_pretrained("again", trust_remote_code=True)
others = again(batch_size=3, generator=generators(), output_type="np").images
assert np.abs(images - others).max() < 1e-5
np.save("images.npy", images)
"""


@pytest.mark.slow
def test_the_folder_makes_the_same_images_alone(latent_run, typed, tmp_path):
    code, _, err = typed("export", f"run={latent_run}", f"out={tmp_path / 'out'}")
    assert code == 0, err
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    assert (tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors").is_file()
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-P", "-c", BEGIN + SAMPLE],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    theirs = np.load(tmp_path / "images.npy") * 255
    ours = load_run(latent_run).sample(3, seed=3).permute(0, 2, 3, 1).numpy()
    assert theirs.shape == (3, 28, 28, 1) and theirs.std() > 1
    assert np.abs(theirs - ours).max() <= 0.51
    card = (tmp_path / "out" / "README.md").read_text()
    assert "standardised latents of the VAE in vae/" in card
    assert str(load_run(latent_run).config["data"]["latents"]) not in card

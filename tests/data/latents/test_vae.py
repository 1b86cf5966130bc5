"""Which VAE latents= names, and what it says of one that cannot be used."""

import json
import os
import pickle
import shutil

import huggingface_hub
import pytest
import torch

from diffusion_lab.data.latents.vae import CONFIG, WEIGHTS, absolute_name, find_vae
from diffusion_lab.errors import UserError
from tests.support.tiny_vae import save_vae


@pytest.fixture
def folder(tmp_path):
    save_vae(tmp_path / "vae", channels=3)
    return tmp_path / "vae"


def test_the_vae_says_what_it_takes_and_makes(folder):
    vae = find_vae(str(folder))
    assert (vae.channels, vae.latent_channels, vae.factor) == (3, 2, 2)
    assert vae.latent_shape((3, 28, 16)) == (2, 14, 8)
    for file, change in ((WEIGHTS, b"x"), (CONFIG, b" ")):
        before = find_vae(str(folder)).sha256
        with (folder / file).open("ab") as stream:
            stream.write(change)
        assert find_vae(str(folder)).sha256 != before


def test_loading_leaves_random_numbers_alone(folder):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    model = find_vae(str(folder)).load()
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training and not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 16, 16), r"data.channels=1: the VAE of .* takes images with 3 channels"),
        ((3, 27, 27), r"data.image_size=27: .* multiples of 2, for example data.image_size=28"),
        ((3, 28, 17), r"data.image_size=\[28,17\]: .* for example data.image_size=\[28,18\]"),
    ],
)
def test_images_that_do_not_fit(folder, shape, said):
    with pytest.raises(UserError, match=said):
        find_vae(str(folder)).latent_shape(shape)


def change_config(folder, **values):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | values))


class Poison:
    """Makes a folder if it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def pickled(folder):
    (folder / WEIGHTS).unlink()
    with (folder / "diffusion_pytorch_model.bin").open("wb") as stream:
        pickle.dump(Poison(), stream)


def cut(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])


HARM = {
    "no config": (lambda f: (f / CONFIG).unlink(), "has no config.json: expected a folder"),
    "no json": (lambda f: (f / CONFIG).write_text("{"), "config.json cannot be read"),
    "a list": (lambda f: (f / CONFIG).write_text("[]"), "holds no model of diffusers"),
    "another model": (lambda f: change_config(f, _class_name="VQModel"), "holds VQModel: expected"),
    "no channels": (lambda f: change_config(f, latent_channels=None), "does not describe a VAE"),
    "unequal": (lambda f: change_config(f, out_channels=1), "does not describe a VAE"),
    "pickled": (pickled, "has no diffusion_pytorch_model.safetensors: .* are not read"),
    "cut": (cut, r"cannot be loaded \("),
    "another shape": (lambda f: change_config(f, latent_channels=4), r"cannot be loaded \("),
    "weights left over": (
        lambda f: change_config(f, layers_per_block=2),
        "does not fit its config",
    ),
    "another act": (lambda f: change_config(f, act_fn="x"), r"cannot be loaded \("),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_folder_that_is_no_vae_is_told_in_one_line(folder, harm):
    damage, said = HARM[harm]
    damage(folder)
    with pytest.raises(UserError, match=said) as error:
        find_vae(str(folder)).load()
    assert "\n" not in str(error.value)


def test_the_folder_of_a_pipeline_has_the_vae_within(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "pipe" / "vae")
    with pytest.raises(UserError, match=r"is the folder of a pipeline: type .*latents=.*pipe/vae"):
        find_vae(str(tmp_path / "pipe"))


def test_names(folder, monkeypatch):
    for name in (None, "owner/name", "/nowhere/at/all"):
        assert absolute_name(name) == name
    monkeypatch.chdir(folder.parent)
    assert absolute_name("vae") == str(folder)
    with pytest.raises(UserError, match="latents=/nowhere/at/all: no such folder; expected one"):
        find_vae("/nowhere/at/all")


def test_a_name_on_the_hub_is_asked_for_once(folder, monkeypatch, tmp_path):
    asked = []

    def download(repo, path):
        asked.append((repo, path))
        return str(folder / path.rpartition("/")[2])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, path in (("tiny/alone", CONFIG), ("tiny/pipeline/vae", f"vae/{CONFIG}")):
        vae = find_vae(name)
        assert find_vae(name) == vae and vae.channels == 3
        assert asked == [(name.removesuffix("/vae"), path)]
        asked.clear()
    assert find_vae("tiny/alone").load().config.latent_channels == 2
    assert asked == [("tiny/alone", WEIGHTS)]


def test_no_network(monkeypatch, caplog):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="latents=nobody/has_this: there is no such folder, and"):
        find_vae("nobody/has_this")
    assert not caplog.records

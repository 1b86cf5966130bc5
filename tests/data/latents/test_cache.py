"""Images are encoded once; what is stale or half-written is made again."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.latents import cache
from diffusion_lab.data.latents.decoder import LatentDecoder
from diffusion_lab.data.latents.vae import find_vae
from diffusion_lab.data.sources.fake import fake_images
from diffusion_lab.errors import UserError
from tests.support.tiny_vae import save_vae


@pytest.fixture
def vae(tmp_path):
    return save_vae(tmp_path / "vae")


def decoder(tmp_path, name="vae"):
    return LatentDecoder(find_vae(str(tmp_path / name)))


def encoded(tmp_path, data=None, size=(10, 8), name="vae"):
    data = fake_images(12, 5, (8, 8)) if data is None else data
    return cache.encoded(data, size, decoder(tmp_path, name), tmp_path / "cache")


@pytest.fixture
def work(monkeypatch):
    """The numbers of images of each batch that was encoded."""
    done, encode = [], cache._encode
    monkeypatch.setattr(
        cache, "_encode", lambda vae, images: done.append(len(images)) or encode(vae, images)
    )
    return done


def test_the_latents_are_those_of_the_padded_images(vae, tmp_path):
    data = fake_images(12, 5, (8, 8))
    ours = decoder(tmp_path)
    latents = cache.encoded(data, (10, 8), ours, tmp_path / "cache")
    for mine, images in ((latents.train, data.train_images), (latents.test, data.test_images)):
        with torch.no_grad():
            theirs = vae.encode(F.pad(images, (0, 0, 1, 1)) / 127.5 - 1).latent_dist.mean
        assert mine.dtype == torch.float16
        torch.testing.assert_close(mine.float(), theirs, rtol=2**-10, atol=1e-4)
    values = latents.train.double()
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3), correction=0)
    torch.testing.assert_close(torch.tensor(ours.statistics["mean"]).double(), mean)
    torch.testing.assert_close(torch.tensor(ours.statistics["std"]).double(), std)
    standardised = ours.encode(latents.train)
    torch.testing.assert_close(standardised.mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(standardised.std((0, 2, 3), correction=0), torch.ones(2))


def test_a_data_set_is_encoded_once_for_each_vae_and_size(vae, tmp_path, work):
    first = encoded(tmp_path)
    assert sum(work) == 17
    again = encoded(tmp_path)
    assert sum(work) == 17 and torch.equal(again.train, first.train)
    save_vae(tmp_path / "other", seed=1)
    for more in (
        {"name": "other"},
        {"size": (8, 8)},
        {"data": fake_images(12, 5, (8, 8), seed=1)},
    ):
        before = sum(work)
        encoded(tmp_path, **more)
        assert sum(work) == before + 17


def remove_record(folder):
    (folder / "record.json").unlink()


def cut(folder):
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-2])


def left_by_a_killed_process(folder):
    folder.rename(f"{folder}.part")


def no_std(folder):
    (folder / "record.json").write_text(json.dumps({"mean": [0, 0]}))


@pytest.mark.parametrize("harm", [remove_record, cut, left_by_a_killed_process, no_std])
def test_a_cache_that_is_not_whole_is_made_again(vae, tmp_path, work, harm):
    first = encoded(tmp_path).train.clone()
    [folder] = (tmp_path / "cache").glob("latents_*[!k]")
    harm(folder)
    assert torch.equal(encoded(tmp_path).train, first) and sum(work) == 34
    assert sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()) == [
        folder.name
    ]


def test_bad_weights_and_a_full_disk_leave_nothing(vae, tmp_path, monkeypatch):
    bad = decoder(tmp_path)
    with torch.no_grad():
        bad.model.quant_conv.bias.fill_(1e6)
    with pytest.raises(UserError, match="its latents are not finite in float16"):
        cache.encoded(fake_images(12, 5, (8, 8)), (8, 8), bad, tmp_path / "cache")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"the cache of 17 latents needs .* type data.cache_dir="):
        encoded(tmp_path)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


SMALL = {"num_images": 20, "num_test_images": 5, "val_size": 4, "image_size": 8}


def module(tmp_path, **settings):
    given = {"latents": str(tmp_path / "vae"), "cache_dir": str(tmp_path / "cache")}
    return ImageDataModule("fake", batch_size=8, **SMALL, **given, **settings)


def test_the_datamodule_keeps_pixels_and_latents_in_one_order(vae, tmp_path):
    data = module(tmp_path)
    data.setup()
    assert (data.image_shape, data.value_shape) == ((1, 8, 8), (2, 4, 4))
    for split, count in (("train", 16), ("val", 4), ("test", 5)):
        pixels = data.pixels(split)
        assert pixels.dtype == torch.uint8 and len(pixels) == count
        with torch.no_grad():
            latents = vae.encode(pixels / 127.5 - 1).latent_dist.mean
        stored = next(iter(data._loader(split)))[0][:8]
        torch.testing.assert_close(stored.float(), latents[:8], rtol=2**-10, atol=1e-4)
    batch = next(iter(data.val_dataloader()))
    x0, labels = data.on_after_batch_transfer(batch, 0)
    assert x0.dtype == torch.float32
    assert torch.equal(x0, data.value_range.encode(batch[0])) and torch.equal(labels, batch[1])
    shown, _ = data.examples(16)
    assert abs(shown.mean()) < 0.5 and 0.5 < shown.std() < 2
    assert set(data.provenance["latents"]) == {"vae_sha256", "mean", "std"}


def test_clusters_are_those_of_the_pixels(vae, tmp_path):
    data = module(tmp_path, clusters=2)
    plain = ImageDataModule("fake", clusters=2, **SMALL)
    data.setup(), plain.setup()
    assert torch.equal(data.labels("train"), plain.labels("train"))


def test_mirrored_latents_are_refused(vae, tmp_path):
    with pytest.raises(UserError, match=r"data.flip=true with latents=.*: leave out data.flip="):
        module(tmp_path, flip=True)

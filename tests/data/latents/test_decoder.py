"""Between pixels and latents: what diffusers' own encode and decode give."""

import pytest
import torch

from diffusion_lab.data.latents.decoder import LatentDecoder, range_of
from diffusion_lab.data.latents.vae import find_vae
from diffusion_lab.errors import UserError
from tests.support.tiny_vae import save_vae

MEAN, STD = [0.25, -1.0], [0.5, 2.0]


@pytest.fixture
def vae(tmp_path):
    return save_vae(tmp_path / "vae", channels=3)


@pytest.fixture
def decoder(vae, tmp_path):
    decoder = LatentDecoder(find_vae(str(tmp_path / "vae")))
    decoder.set_statistics(MEAN, STD)
    return decoder


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, 8, 12), generator=generator, dtype=torch.uint8)


def scale(values):
    return torch.tensor(values)[:, None, None]


def test_encoding_is_the_mean_of_the_posterior_standardised(vae, decoder, pixels):
    with torch.no_grad():
        theirs = vae.encode(pixels / 127.5 - 1).latent_dist.mean
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(decoder.means(pixels), theirs, **close)
    standardised = (theirs - scale(MEAN)) / scale(STD)
    torch.testing.assert_close(decoder.encode(pixels), standardised, **close)
    torch.testing.assert_close(decoder.encode(theirs), standardised, **close)  # stored latents
    assert decoder.shape((3, 8, 12)) == theirs.shape[1:] == (2, 4, 6)


def test_decoding_is_that_of_diffusers(vae, decoder):
    latents = torch.randn(5, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image = vae.decode(latents * scale(STD) + scale(MEAN)).sample
    unit = (image / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decoder.to_unit(latents), unit, rtol=0, atol=1e-5)
    decoded = decoder.decode(latents)
    assert decoded.dtype == torch.uint8
    assert (decoded - unit.mul(255)).abs().max() <= 0.51
    for shape in ((5, 1), (1, 5), (1, 1, 5)):  # any leading dimensions
        images = decoder.to_unit(latents.view(*shape, 2, 4, 6))
        torch.testing.assert_close(images, unit.view(*shape, 3, 8, 12), rtol=0, atol=1e-5)
    torch.testing.assert_close(decoder.to_unit(latents[0]), unit[0], rtol=0, atol=1e-5)


def test_batches_do_not_change_it(decoder, pixels, monkeypatch):
    whole = decoder.encode(pixels)
    monkeypatch.setattr("diffusion_lab.data.latents.decoder._PIXELS", 2 * 8 * 12)
    assert decoder.images_at_once(8, 12) == 2 and decoder.images_at_once(99, 99) == 1
    torch.testing.assert_close(decoder.encode(pixels), whole, rtol=0, atol=1e-5)


def test_a_latent_is_known_if_all_its_pixels_are(decoder):
    known = torch.ones(4, 6, dtype=torch.bool)
    known[1, 2] = known[0, 5] = False
    assert decoder.known(known).tolist() == [[True, False, False], [True, True, True]]


def test_a_checkpoint_holds_what_is_needed_and_other_weights_are_told(decoder, pixels, tmp_path):
    record = decoder.record()
    again = range_of({"latents": str(tmp_path / "vae")})
    again.use_record(record)
    assert torch.equal(again.encode(pixels), decoder.encode(pixels))
    save_vae(tmp_path / "other", channels=3, seed=1)
    with pytest.raises(UserError, match=r"has other weights .* than the VAE of the run"):
        range_of({"latents": str(tmp_path / "other")}).use_record(record)


def test_what_has_no_latents(tmp_path):
    with pytest.raises(UserError, match=r"latents=x needs pixels, .*: leave out latents="):
        range_of({"latents": "x", "value_range": "unbounded"})

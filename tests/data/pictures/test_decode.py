"""Pictures of every kind become the uint8 arrays that a person would expect."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data.pictures.decode import Format, Unreadable, WrongSize, decode

SIZE = (12, 9)  # width, height


@pytest.fixture
def colours():
    """A smooth RGB picture, (9, 12, 3)."""
    y, x = np.mgrid[:9, :12]
    return np.stack([x * 20, y * 25, (x + y) * 10], axis=-1).astype(np.uint8)


def read(folder, name, channels=3, size=SIZE, **options):
    return decode(folder, name, Format(size[1], size[0], channels, **options))


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "bmp", "TIFF", "PNG"])
def test_lossless_files_keep_their_pixels(tmp_path, colours, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(colours).save(tmp_path / f"a.{suffix}", **options)
    assert (read(tmp_path, f"a.{suffix}") == colours.transpose(2, 0, 1)).all()


def test_jpeg_is_close(tmp_path, colours):
    Image.fromarray(colours).save(tmp_path / "a.jpeg", quality=95, subsampling=0)
    assert np.abs(read(tmp_path, "a.jpeg").astype(int) - colours.transpose(2, 0, 1)).max() < 12


def test_gray_palette_and_cmyk_become_rgb(tmp_path, colours):
    image = Image.fromarray(colours)
    image.convert("L").save(tmp_path / "gray.png")
    image.quantize(250).save(tmp_path / "palette.png")
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    gray = read(tmp_path, "gray.png")
    assert (gray == gray[:1]).all() and gray.shape == (3, 9, 12)
    for name in ("palette.png", "cmyk.tif"):
        assert np.abs(read(tmp_path, name).astype(int) - colours.transpose(2, 0, 1)).max() < 20
    # ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B
    luma = colours @ np.array([0.299, 0.587, 0.114])
    image.save(tmp_path / "colour.png")
    assert np.abs(read(tmp_path, "colour.png", channels=1)[0] - luma).max() < 1


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    deep = np.linspace(0, 65535, 9 * 12).round().astype(np.uint16).reshape(9, 12)
    for name in ("a.png", "a.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        assert (read(tmp_path, name, channels=1)[0] == np.rint(deep / 257)).all()


@pytest.mark.parametrize(("background", "behind"), [("white", 255), ("black", 0), ("#808080", 128)])
def test_transparency_shows_the_background(tmp_path, colours, background, behind):
    alpha = np.full((9, 12, 1), 255, np.uint8)
    alpha[:, :4], alpha[:, 4:8] = 0, 51  # clear, a fifth, solid
    Image.fromarray(np.concatenate([colours, alpha], 2)).save(tmp_path / "a.png")
    pixels = read(tmp_path, "a.png", background=background)
    expected = colours * (alpha / 255) + behind * (1 - alpha / 255)
    assert np.abs(pixels - expected.transpose(2, 0, 1)).max() <= 1
    kept = read(tmp_path, "a.png", channels=4)
    assert (kept[3] == alpha[..., 0]).all()
    assert (read(tmp_path, "a.png", channels=1) == read(tmp_path, "a.png", 1)).all()


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", SIZE, 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, 6, 9))
    image.save(tmp_path / "a.png", transparency=0)
    pixels = read(tmp_path, "a.png")
    assert pixels[:, 0, 0].tolist() == [200, 100, 50]
    assert pixels[:, 0, 11].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_upright(tmp_path, colours, orientation):
    upright = Image.fromarray(colours)
    moves = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for move in moves.get(orientation, []):
        stored = stored.transpose(move)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert (read(tmp_path, "a.png") == colours.transpose(2, 0, 1)).all()


def test_crop_keeps_the_middle_and_pad_the_whole(tmp_path):
    left_to_right = np.repeat(np.arange(40, dtype=np.uint8)[None] * 6, 20, axis=0)  # 20 x 40
    Image.fromarray(left_to_right).save(tmp_path / "a.png")
    crop = read(tmp_path, "a.png", 1, size=(20, 20), resize="crop")[0]
    assert (crop == left_to_right[:, 10:30]).all()
    pad = read(tmp_path, "a.png", 1, size=(40, 40), resize="pad", background="#070707")[0]
    assert (pad[10:30] == left_to_right).all() and (pad[:10] == 7).all() and (pad[30:] == 7).all()
    stretch = read(tmp_path, "a.png", 1, size=(20, 20), resize="stretch")[0].astype(float)
    # antialiased: each pixel is near the mean of the two it was made from
    assert np.abs(stretch - left_to_right.reshape(20, 20, 2).mean(2)).max() < 3
    with pytest.raises(WrongSize, match="20 x 40"):
        read(tmp_path, "a.png", 1, size=(20, 20))


def test_shrinking_does_not_alias(tmp_path):
    """A pattern finer than the new pixels becomes its mean, not a coarser pattern."""
    fine = np.zeros((64, 64), np.uint8)
    fine[:, ::2] = 255
    Image.fromarray(fine).save(tmp_path / "a.png")
    for rule in ("crop", "pad", "stretch"):
        small = read(tmp_path, "a.png", 1, size=(9, 9), resize=rule)[0, 1:-1, 1:-1]
        assert np.abs(small.astype(int) - 128).max() < 12


def test_arrays_of_many_channels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 7), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    assert (read(tmp_path, "a.npy", channels=7) == pixels.transpose(2, 0, 1)).all()
    np.save(tmp_path / "b.npy", pixels.astype(float))
    np.save(tmp_path / "c.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    for name, reason in (("b.npy", "float64"), ("c.npy", "allow_pickle"), ("a.npy", "7 channels")):
        with pytest.raises(Unreadable, match=reason):
            read(tmp_path, name, channels=3)


def test_files_that_are_no_pictures(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    Image.fromarray(np.zeros((9, 12), np.float32)).save(tmp_path / "float.tif")
    Image.effect_noise((400, 300), 50).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "short.npy").write_bytes(b"\x93NUMPY\x01\x00\x06\x00{'a': \n")
    for name in ("empty.png", "text.jpg", "float.tif", "half.png", "short.npy"):
        with pytest.raises(Unreadable) as raised:
            read(tmp_path, name, resize="crop")
        assert "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError):
        read(tmp_path, "missing.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400 * 300 - 1)
    with pytest.raises(Unreadable, match="decompression bomb"):
        read(tmp_path, "whole.png", resize="crop")


def test_a_zip_file_reads_like_its_folder(tmp_path, colours):
    Image.fromarray(colours).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "x/a.png")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert (read(archive, "x/a.png") == read(tmp_path, "a.png")).all()
    damaged = bytearray((tmp_path / "all.zip").read_bytes())
    damaged[60:90] = bytes(30)
    (tmp_path / "bad.zip").write_bytes(damaged)
    with zipfile.ZipFile(tmp_path / "bad.zip") as archive, pytest.raises(Unreadable):
        read(archive, "x/a.png")

"""Grids and GIFs, checked pixel by pixel with Pillow, numpy and torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torchvision.utils import make_grid

from diffusion_lab.figures import (
    grid_tensor,
    image_row,
    loss_and_grid,
    save_figure,
    save_gif,
    save_grid,
)
from diffusion_lab.figures.grid import displayable
from tests.figures.test_figures import figure_array, some_images

# --- grids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "nrow"), [(2, 8), (8, 8), (9, 4), (64, 8), (5, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_grid_matches_torchvision(count: int, nrow: int, channels: int) -> None:
    images = some_images(count, channels)
    expected = make_grid(images, nrow=nrow, padding=2, pad_value=1.0)[:channels]
    assert torch.equal(grid_tensor(images, nrow), expected)


def test_a_single_image_has_a_border() -> None:
    image = some_images(1, 3, size=5)
    grid = grid_tensor(image)
    assert grid.shape == (3, 9, 9)
    assert torch.equal(grid[:, 2:7, 2:7], image[0])
    assert (grid[:, :2] == 1).all() and (grid[:, :, -2:] == 1).all()


def test_clipping_does_not_change_the_given_tensor() -> None:
    images = torch.full((2, 1, 4, 4), -3.0)
    images[1] = 7.0
    images[1, 0, 0, 0] = torch.nan
    before = images.clone()
    grid = grid_tensor(images)
    assert torch.equal(images.nan_to_num(99.0), before.nan_to_num(99.0))
    assert grid[0, 2, 2] == 0 and grid[0, 3, 9] == 1 and grid[0, 2, 8] == 0
    grid.fill_(0.5)
    assert torch.equal(images.nan_to_num(99.0), before.nan_to_num(99.0))


def test_grid_accepts_half_precision_and_gradients() -> None:
    images = some_images(2).to(torch.bfloat16).requires_grad_()
    grid = grid_tensor(images)
    assert grid.dtype == torch.float32 and not grid.requires_grad


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (0, 1, 28, 28)])
def test_grid_rejects_tensors_that_are_no_batch_of_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        grid_tensor(torch.zeros(shape))


def test_grid_rejects_empty_rows() -> None:
    with pytest.raises(ValueError, match="nrow=0"):
        grid_tensor(some_images(2), nrow=0)


# --- files ---------------------------------------------------------------------------------------


def test_save_grid_enlarges_pixels_by_an_integer_factor(tmp_path: Path) -> None:
    images = torch.zeros(3, 1, 28, 28)
    images[1, 0, 4, 7] = 1.0
    images[2, 0, 0, 0] = 0.5
    path = save_grid(images, tmp_path / "new" / "grid.png", nrow=2)
    with Image.open(path) as picture:
        assert picture.mode == "L"
        array = np.array(picture)
    # Two columns and two rows of 28 pixels, three gaps of 2: 62 pixels, and 640 // 62 is 10, but
    # more than 8 times is never needed.
    assert array.shape == (62 * 8, 62 * 8)
    small = array[::8, ::8]
    assert (np.kron(small, np.ones((8, 8), np.uint8)) == array).all()
    assert small[2 + 4, 32 + 7] == 255 and small[2 + 4, 32 + 8] == 0
    assert small[32, 2] == 128 and small[32, 3] == 0
    assert (small[:2] == 255).all() and (small[32:, 32:] == 255).all()


def test_save_grid_writes_colours(tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 4, 4)
    images[0, 0, 1, 2] = 1.0
    images[0, 2, 3, 0] = 1.0
    with Image.open(save_grid(images, tmp_path / "grid.png")) as picture:
        assert picture.mode == "RGB" and picture.size == (64, 64)
        assert picture.getpixel(((2 + 2) * 8, (2 + 1) * 8)) == (255, 0, 0)
        assert picture.getpixel(((2 + 0) * 8 + 7, (2 + 3) * 8 + 7)) == (0, 0, 255)
        assert picture.getpixel((16, 16)) == (0, 0, 0)


def test_save_grid_does_not_enlarge_large_images(tmp_path: Path) -> None:
    with Image.open(save_grid(some_images(2, 3, 400), tmp_path / "grid.png")) as picture:
        assert picture.size == (806, 404)


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        images = some_images(8)
        save_grid(images, tmp_path / f"{name}-grid.png")
        save_gif([images, 1 - images], tmp_path / f"{name}.gif")
        save_figure(loss_and_grid(np.linspace(0.1, 0, 100), images), tmp_path / f"{name}.png")
    for name in ("-grid.png", ".gif", ".png"):
        assert (tmp_path / f"a{name}").read_bytes() == (tmp_path / f"b{name}").read_bytes()


def test_saving_replaces_a_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figure = image_row(some_images(2))
    assert save_figure(figure, str(path)) == path
    with Image.open(path) as picture:
        assert (np.array(picture.convert("RGB")) == figure_array(figure)).all()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "grid.png").mkdir()
    with pytest.raises(OSError):
        save_grid(some_images(1), tmp_path / "grid.png")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


# --- animations ----------------------------------------------------------------------------------


def test_gif_frames_durations_and_gray_pixels(tmp_path: Path) -> None:
    frames = [some_images(4, seed=seed) for seed in range(5)]
    path = save_gif(frames, tmp_path / "walk.gif", nrow=2, fps=8, hold=1.5)
    with Image.open(path) as animation:
        assert animation.info["loop"] == 0
        durations, pictures = [], []
        for shown in ImageSequence.Iterator(animation):
            durations.append(shown.info["duration"])
            pictures.append(np.array(shown.convert("L")))
    # an eighth of a second in the hundredths of a GIF
    assert durations == [120, 120, 120, 120, 1500]
    for frame, picture in zip(frames, pictures, strict=True):
        expected = make_grid(frame, nrow=2, pad_value=1.0)[0].mul(255).round().numpy()
        assert (picture == np.kron(expected, np.ones((8, 8)))).all()


def test_gif_in_colour_is_close(tmp_path: Path) -> None:
    ramp = torch.linspace(0, 1, 16)
    image = torch.stack([ramp.expand(16, 16), ramp[:, None].expand(16, 16), torch.zeros(16, 16)])
    frames = [image[None], 1 - image[None]]
    with Image.open(save_gif(frames, tmp_path / "walk.gif")) as animation:
        pictures = [np.array(one.convert("RGB")) for one in ImageSequence.Iterator(animation)]
    for frame, picture in zip(frames, pictures, strict=True):
        small = picture[::8, ::8].astype(float)[2:-2, 2:-2]
        error = np.abs(small - frame[0].permute(1, 2, 0).numpy() * 255)
        assert error.mean() < 8


def test_gif_with_one_frame_and_with_equal_frames(tmp_path: Path) -> None:
    frame = some_images(1)
    with Image.open(save_gif([frame], tmp_path / "one.gif", hold=3)) as animation:
        assert len(list(ImageSequence.Iterator(animation))) == 1
    path = save_gif([1 - frame, frame, frame, frame], tmp_path / "still.gif", fps=10, hold=1)
    with Image.open(path) as animation:
        shown = [one.info["duration"] for one in ImageSequence.Iterator(animation)]
    assert sum(shown) == 3 * 100 + 1000


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ([], {}, "at least one frame"),
        ([torch.zeros(1, 1, 4, 4), torch.zeros(2, 1, 4, 4)], {}, "one shape"),
        ([torch.zeros(1, 1, 4, 4)], {"fps": 0}, "fps"),
        ([torch.zeros(1, 1, 4, 4)], {"fps": 100}, "fps"),
        ([torch.zeros(1, 1, 4, 4)], {"hold": -1}, "hold"),
    ],
)
def test_gif_rejects_invalid_arguments(
    tmp_path: Path, frames: list[torch.Tensor], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        save_gif(frames, tmp_path / "walk.gif", **options)
    assert not list(tmp_path.iterdir())


def test_images_of_any_number_of_channels_can_be_shown() -> None:
    images = torch.rand(2, 4, 16, 8, generator=torch.Generator().manual_seed(0))
    images[0, 3], images[1, 3] = 1, 0
    opaque, clear = displayable(images)
    assert torch.equal(opaque, images[0, :3])
    assert sorted(clear.unique().tolist()) == pytest.approx([0.6, 0.9])
    for channels in (2, 7):
        several = torch.rand(3, channels, 5, 6)
        assert torch.allclose(displayable(several), several.mean(1, keepdim=True))

"""Figures, checked pixel by pixel with Pillow and numpy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torchvision.utils import make_grid

from diffusion_lab.figures import (
    image_row,
    labelled_rows,
    line_plot,
    loss_and_grid,
    loss_curve,
    trajectory,
)


def some_images(count: int, channels: int = 1, size: int = 28, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator)


def figure_array(figure: Figure) -> np.ndarray:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi="figure")
    return np.array(Image.open(buffer).convert("RGB"))


def drawn(figure: Figure) -> np.ndarray:
    """Render a figure; check that it is not blank."""
    array = figure_array(figure)
    assert array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3
    assert array.min() < 128 and array.max() == 255
    return array


def assert_nothing_cropped(figure: Figure) -> None:
    """Check for a white border: no letter and no image is cut off."""
    array = drawn(figure)
    for edge in (array[0], array[-1], array[:, 0], array[:, -1]):
        assert (edge == 255).all()


# --- figures of images ---------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_image_row_shows_every_pixel_as_an_equal_square(count: int, channels: int) -> None:
    images = some_images(count, channels)
    array = drawn(image_row(images))
    expected = make_grid(torch.cat([images, images]), nrow=count, pad_value=1.0)
    expected = expected[:, 2:30, 2:-2].mul(255).round().permute(1, 2, 0).numpy()
    inked = np.argwhere((array < 255).any(axis=2))
    (top, left), (bottom, right) = inked.min(axis=0), inked.max(axis=0) + 1
    factor = (bottom - top) // 28
    assert factor >= 4 and bottom - top == 28 * factor
    assert (array[top:bottom, left:right] == np.kron(expected, np.ones((factor, factor, 1)))).all()


def test_image_row_needs_one_label_per_image() -> None:
    images = some_images(8)
    labels = [f"{amount:.2f}" for amount in torch.linspace(0, 1, 8)]
    figure = image_row(images, "noise", labels)
    assert_nothing_cropped(figure)
    assert [text.get_text() for text in figure.texts] == [*labels, "noise"]
    with pytest.raises(ValueError, match="8 images"):
        image_row(images, labels=labels[:7])


def test_a_long_title_widens_the_figure() -> None:
    assert_nothing_cropped(image_row(some_images(1), "a title much longer than one small image"))


@pytest.mark.parametrize("size", [8, 28, 64, 256])
def test_figures_have_equal_width_for_all_image_sizes(size: int) -> None:
    figure = labelled_rows({"samples": some_images(8, 3, size)}, title="samples")
    assert_nothing_cropped(figure)
    width, height = figure.get_size_inches()
    assert 2 < width <= 8.01 and height < width


def test_labelled_rows() -> None:
    images = some_images(8)
    figure = labelled_rows({"input": images, "corrupted": images, "a long prediction": images})
    assert_nothing_cropped(figure)
    assert [text.get_text() for text in figure.texts] == [
        "input",
        "corrupted",
        "a long prediction",
    ]
    with pytest.raises(ValueError, match="size"):
        labelled_rows({"input": images, "prediction": images[:7]})
    with pytest.raises(ValueError, match="at least one row"):
        labelled_rows({})


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 5, 12, 50])
def test_trajectory_has_two_cells_per_step(steps: int) -> None:
    inputs = [some_images(10, seed=step) for step in range(steps)]
    predictions = [torch.zeros_like(images) for images in inputs]
    labels = [f"t = {1 - step / steps:.2f}" for step in range(steps)]
    figure = trajectory(inputs, predictions, labels, title="sampling")
    assert len(figure.axes) == 2 * steps
    assert_nothing_cropped(figure)
    left, right = figure.axes[0], figure.axes[1]
    assert left.get_position().x1 < right.get_position().x0
    shown = np.asarray(left.get_images()[0].get_array())[..., 0]
    expected = make_grid(inputs[0][:8], nrow=8, pad_value=1.0)[0].mul(255).round().numpy()
    assert (shown == expected).all()
    assert np.asarray(right.get_images()[0].get_array())[2:30, 2:30, 0].max() == 0


def test_trajectory_rejects_lists_of_different_lengths() -> None:
    images = some_images(2)
    with pytest.raises(ValueError, match="1, 2 and 1"):
        trajectory([images], [images, images], ["t = 1"])


# --- curves --------------------------------------------------------------------------------------


def line(figure: Figure, label: str) -> tuple[np.ndarray, np.ndarray]:
    found = [one for one in figure.axes[0].get_lines() if one.get_label() == label]
    assert len(found) == 1
    return np.asarray(found[0].get_xdata()), np.asarray(found[0].get_ydata())


def test_loss_curve_of_the_tutorial() -> None:
    losses = 0.02 + 0.08 * np.exp(-np.arange(1407) / 60)
    figure = loss_curve(losses, val=[(469, 0.03), (938, 0.02)], epoch_boundaries=[469, 938])
    assert_nothing_cropped(figure)
    assert figure.axes[0].get_ylim() == (0, 0.1)
    assert (line(figure, "each step")[1] == losses).all()
    x, y = line(figure, "validation")
    assert list(x) == [469, 938] and list(y) == [0.03, 0.02]
    mean = line(figure, "mean over 71 steps")[1]
    assert mean[700] == pytest.approx(losses[665:736].mean())
    assert mean[0] == losses[0] and mean[10] == pytest.approx(losses[:21].mean())
    assert mean[-1] == pytest.approx(losses[-36:].mean())


@pytest.mark.parametrize("ylim", [None, (0.0, 0.1)])
def test_loss_curve_with_one_point_and_with_none(ylim: tuple[float, float] | None) -> None:
    one = figure_array(loss_curve([0.05], ylim=ylim))
    none = figure_array(loss_curve([], ylim=ylim))
    assert one.shape == none.shape
    middle = (slice(200, 300), slice(600, 690))
    assert (one[middle] != none[middle]).any()


def test_loss_curve_skips_nan_and_infinity() -> None:
    losses = np.full(400, 0.05)
    losses[100:200] = np.nan
    losses[300] = np.inf
    given = losses.copy()
    figure = loss_curve(losses, ylim=None)
    drawn(figure)
    assert np.array_equal(losses, given, equal_nan=True)
    mean = line(figure, "mean over 21 steps")[1]
    assert np.isnan(mean[150]) and mean[99] == pytest.approx(0.05)
    assert mean[300] == pytest.approx(0.05)
    low, high = figure.axes[0].get_ylim()
    assert 0 < low < 0.05 < high < 0.1
    drawn(loss_curve([np.nan] * 50, ylim=None))


def test_automatic_range_ignores_extreme_steps() -> None:
    losses = np.random.default_rng(0).uniform(0.4, 0.6, 10_000)
    losses[:20] = 1e6
    figure = loss_curve(losses, ylim=None, val=[(10_000, 0.5)])
    drawn(figure)
    low, high = figure.axes[0].get_ylim()
    assert 0.35 < low < 0.41 and 0.59 < high < 0.65


def test_loss_curve_takes_tensors_and_rejects_matrices() -> None:
    losses = torch.linspace(0.1, 0, 50, dtype=torch.bfloat16).requires_grad_()
    drawn(loss_curve(losses))
    with pytest.raises(ValueError, match="one-dimensional"):
        loss_curve(torch.zeros(2, 2))


def test_line_plot() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000)
    kept = torch.cumprod(1 - betas, dim=0)
    steps = torch.arange(1000)
    curves = {"alpha": (steps, kept.sqrt()), "sigma": (steps, (1 - kept).sqrt())}
    figure = line_plot(curves, "step", "DDPM")
    assert_nothing_cropped(figure)
    alpha, sigma = line(figure, "alpha")[1], line(figure, "sigma")[1]
    assert np.allclose(alpha**2 + sigma**2, 1, atol=1e-6)
    assert abs(int(np.argmin(np.abs(alpha - sigma))) - 258) <= 1
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["alpha", "sigma"]
    with pytest.raises(ValueError):
        line_plot({"alpha": (steps, kept[:10])}, "step")


@pytest.mark.parametrize(("count", "channels", "size"), [(64, 1, 28), (5, 3, 32), (1, 1, 512)])
def test_loss_and_grid_are_side_by_side(count: int, channels: int, size: int) -> None:
    images = some_images(count, channels, size)
    figure = loss_and_grid(np.linspace(0.1, 0.02, 500), images, "a run")
    assert_nothing_cropped(figure)
    plot, grid = figure.axes
    assert plot.get_position().x1 < grid.get_position().x0
    box, (width, height) = grid.get_position(), figure.get_size_inches()
    shown = np.asarray(grid.get_images()[0].get_array())
    aspect = (box.width * width) / (box.height * height)
    assert aspect == pytest.approx(shown.shape[1] / shown.shape[0])


# --- no state ------------------------------------------------------------------------------------


def test_figures_need_no_pyplot_and_change_no_settings() -> None:
    before = dict(matplotlib.rcParams)
    drawn(loss_and_grid([0.1, 0.05], some_images(4)))
    drawn(labelled_rows({"input": some_images(4)}))
    assert dict(matplotlib.rcParams) == before


def test_figures_can_be_rendered_in_threads() -> None:
    def draw() -> np.ndarray:
        return figure_array(loss_and_grid(np.linspace(0.1, 0, 100), some_images(4), "run"))

    expected = draw()
    with ThreadPoolExecutor(4) as pool:
        drawings = [pool.submit(draw) for _ in range(4)]
    assert all((drawing.result() == expected).all() for drawing in drawings)

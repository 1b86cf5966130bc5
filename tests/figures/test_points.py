import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.quiver import Quiver

from diffusion_lab import figures
from diffusion_lab.figures.style import COLORS

GENERATOR = torch.Generator().manual_seed(0)
POINTS = torch.randn(30, 2, 1, 1, generator=GENERATOR)
REAL = torch.randn(50, 2, 1, 1, generator=GENERATOR)


def dots(ax):
    return [c for c in ax.collections if isinstance(c, PathCollection)]


def test_a_scatter_plot_shows_every_point_over_the_real_ones():
    (ax,) = figures.scatter({"samples": POINTS}, REAL, "a title").axes
    real, samples = dots(ax)
    np.testing.assert_allclose(samples.get_offsets(), POINTS.flatten(1), rtol=1e-6)
    np.testing.assert_allclose(real.get_offsets(), REAL.flatten(1), rtol=1e-6)
    assert real.get_zorder() < samples.get_zorder()
    assert ax.get_title("left") == "a title" and ax.get_aspect() == 1
    largest = max(POINTS.abs().max(), REAL.abs().max())
    assert ax.get_xlim()[1] == ax.get_ylim()[1] > 0.9 * largest


def test_labels_colour_the_points():
    labels = torch.arange(30) % 8
    (ax,) = figures.scatter({"samples": POINTS}, None, labels=labels).axes
    colours = [to_hex(c) for c in dots(ax)[0].get_facecolor()]
    assert colours == [COLORS[k % len(COLORS)] for k in labels.tolist()]


def test_panels_have_titles_and_one_range():
    figure = figures.scatter_panels({f"t = {k}": k * POINTS for k in range(1, 7)})
    axes = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title("left") for ax in axes] == [f"t = {k}" for k in range(1, 7)]
    assert len({ax.get_xlim() for ax in axes}) == 1


def test_moves_and_paths_are_lines_from_begin_to_end():
    (ax,) = figures.moves({"t": (POINTS, 2 * POINTS)}).axes
    assert len(ax.lines) == 30
    np.testing.assert_allclose(
        ax.lines[3].get_xdata(), [POINTS[3, 0, 0, 0], 2 * POINTS[3, 0, 0, 0]]
    )
    (ax,) = figures.paths([POINTS, 1.5 * POINTS, 2 * POINTS], REAL).axes
    assert len(ax.lines) == 30 and len(ax.lines[0].get_ydata()) == 3


def test_arrows_keep_their_directions_and_relative_lengths():
    vectors = POINTS.flip(1)
    (ax,) = figures.vector_field({"t": (POINTS, vectors)}).axes
    (arrows,) = (c for c in ax.collections if isinstance(c, Quiver))
    drawn, wanted = np.stack([arrows.U, arrows.V], 1), vectors.flatten(1).numpy()
    factor = drawn[0, 0] / wanted[0, 0]
    assert factor > 0
    np.testing.assert_allclose(drawn, factor * wanted, rtol=1e-5)


def test_frames_are_images_of_one_size_that_change(tmp_path):
    frames = figures.scatter_frames([POINTS, 0 * POINTS], REAL)
    assert frames[0].shape == frames[1].shape and frames[0].shape[:2] == (1, 3)
    assert frames[0].min() >= 0 and frames[0].max() == 1 and not torch.equal(*frames)
    figures.save_gif(frames, tmp_path / "moving.gif", 1)
    assert (tmp_path / "moving.gif").read_bytes().startswith(b"GIF8")


@pytest.mark.parametrize("shape", [(5, 1, 1, 1), (5, 4, 3, 3)])
def test_other_numbers_are_shown_by_their_first_two(shape):
    points = torch.arange(float(np.prod(shape))).view(shape)
    (ax,) = figures.scatter({"samples": points}).axes
    flat = points.flatten(1)
    second = flat[:, 1] if flat.shape[1] > 1 else torch.zeros(5)
    np.testing.assert_allclose(dots(ax)[0].get_offsets(), torch.stack([flat[:, 0], second], 1))

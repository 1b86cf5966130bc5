"""Figures with long rows or many columns are wrapped, without overlaps."""

from itertools import combinations

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from diffusion_lab.figures import labelled_rows, labelled_table, save_grid, trajectory
from diffusion_lab.sampling.figures import grid_columns
from tests.figures.test_figures import assert_nothing_cropped, some_images


def size(path):
    with Image.open(path) as picture:
        return picture.size


def assert_no_text_overlaps(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    axes = [ax.get_window_extent(renderer) for ax in figure.axes]
    for a, b in combinations(boxes, 2):
        assert not a.overlaps(b)
    for a in boxes:
        assert not any(a.overlaps(b) for b in axes)


@pytest.mark.parametrize("labels", [1, 2, 3, 4, 5, 7, 10, 16, 17])
@pytest.mark.parametrize("count", [16, 64])
def test_a_grid_of_few_classes_is_not_a_long_strip(tmp_path, labels, count):
    columns = grid_columns(labels)
    assert columns % labels == 0 or labels > 16
    width, height = size(save_grid(some_images(count), tmp_path / "grid.png", columns))
    assert max(width, height) <= 1280
    assert max(width, height) < 5 * min(width, height) or count < 2 * columns
    for tall in (torch.ones(64, 1, 28, 28), torch.ones(64, 1, 64, 64)):
        width, height = size(save_grid(tall, tmp_path / "tall.png", nrow=1))
        assert height == len(tall) * (tall.shape[-1] + 2) + 2  # not enlarged


@pytest.mark.slow
def test_samples_of_one_class(typed, runs, tmp_path):
    words = [f"run={runs['conditional']}", "labels=3", "num_samples=16", f"out={tmp_path / 'out'}"]
    code, _, err = typed("sample", *words, "sampler.num_steps=2", "guidance_scale=0,1,2")
    assert code == 0, err
    assert size(tmp_path / "out" / "samples.png") == (484, 124)  # 8 x 2 of 30 pixels, doubled
    with Image.open(tmp_path / "out" / "denoising.gif") as frames:
        assert frames.size == (484, 124)


@pytest.mark.slow
@pytest.mark.parametrize(("images", "results"), [(1, 14), (1, 60), (2, 9), (3, 5), (6, 3)])
def test_results_of_few_images_are_side_by_side(typed, trained, tmp_path, images, results):
    words = [f"run={trained['basic_unet']}", "edit=image_to_image", f"images=test:0-{images - 1}"]
    words += [f"num_samples={results}", "num_steps=2", f"out={tmp_path / 'out'}"]
    code, _, err = typed("edit", *words)
    assert code == 0, err
    width, height = size(tmp_path / "out" / "edit.png")
    assert width <= 1200 and height <= 1900
    assert height < 2 * width


def test_an_interpolation_shows_both_ends(typed, trained, tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        "diffusion_lab.figures.labelled_rows",
        lambda rows: shown.update(rows) or labelled_rows(rows),
    )
    words = [f"run={trained['basic_unet']}", "edit=interpolate", "images=test:0-1"]
    code, _, err = typed("edit", *words, "num_points=40", "num_steps=2", f"out={tmp_path / 'out'}")
    assert code == 0, err
    [row] = shown.values()
    from numpy import load

    given = torch.from_numpy(load(tmp_path / "out" / "edit.npz")["original"]).float() / 255
    assert len(row) == 16
    torch.testing.assert_close(row[[0, -1]], given, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 5, 16, 60])
@pytest.mark.parametrize("side", [8, 28, 64])
def test_many_rows_are_shrunk_but_fit_their_labels(rows, side):
    steps = [some_images(8, size=side) for _ in range(rows)]
    figure = trajectory(steps, steps, [f"t = {k}" for k in range(rows)])
    assert_nothing_cropped(figure)
    assert_no_text_overlaps(figure)
    if side == 28:
        assert figure.get_size_inches()[1] < 13


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 4, 14, 17, 40])
def test_columns_that_do_not_fit_are_wrapped(columns):
    rows = {f"class {k}": [some_images(1, seed=c) for c in range(columns)] for k in range(3)}
    names = [f"scale {k / 4:g}" for k in range(columns)]
    figure = labelled_table(rows, names, "a title")
    assert_nothing_cropped(figure)
    assert_no_text_overlaps(figure)
    assert figure.get_size_inches()[0] < 8.1
    texts = [text.get_text() for text in figure.texts]
    assert [text for text in texts if text.startswith("scale")] == names
    assert len(figure.axes) == 3 * columns


def test_a_row_of_many_images_is_wrapped():
    figure = labelled_rows({"a run": some_images(50), "another": some_images(50, seed=1)})
    assert_nothing_cropped(figure)
    width, height = figure.get_size_inches()
    assert width < 8.1 and height > 2

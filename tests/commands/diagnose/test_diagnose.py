"""scripts/diagnose.py, with the ideal denoiser and with copies in place of a run's own."""

import csv
import json

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.commands.diagnose.denoising_error import Level, denoising_errors, levels_figure
from diffusion_lab.commands.diagnose.memorisation import memorisation
from diffusion_lab.diffusion import (
    BlendSampler,
    Flow,
    StraightPath,
    UniformTime,
    UniformWeighting,
    sample_steps,
)
from diffusion_lab.diffusion.ideal_denoiser import ImagesOracle
from diffusion_lab.diffusion.log_snr import implied_weighting
from diffusion_lab.evaluation.nearest import Nearest, closeness, nearest
from diffusion_lab.runs.data import run_data
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY

SMALL = ("levels=4", "num_images=6", "num_samples=5", "batch_size=4", "num_held_out=8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a function that trains a tiny run once for each name and returns its folder."""
    made = {}

    def make(name, *words):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            quick = [*TINY[:-2], "callbacks=minimal", "logger=csv", "network=unet_fast"]
            narrow = ["network.width=8", "network.depth=1"]
            train(compose_config([*quick, *narrow, *words], made[name]))
        return made[name]

    return make


def record_of(run, out):
    """Read diagnose.json in the folder of the command's last line."""
    folder = run / "diagnosis" / out.strip().rpartition("/")[2]
    return json.loads((folder / "diagnose.json").read_text())


@pytest.mark.slow
def test_the_command(folder, command):
    run = folder("flow", "model=flow")
    done = command("diagnose", f"run={run}", *SMALL)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[0].startswith("losses: network and ideal denoiser (of 20 images) on 6 images")
    lines = lines[[line.startswith("squared error on x0") for line in lines].index(True) :]
    assert any(line.lstrip().startswith("1st percentile of test images") for line in lines)
    out = run / "diagnosis" / lines[-1].rpartition("/")[2]
    assert str(out) == lines[-1]
    names = {"denoising.csv", "denoising.png", "nearest.csv", "nearest.png", "distances.png"}
    assert {p.name for p in out.iterdir()} == names | {"diagnose.json"}
    record = json.loads((out / "diagnose.json").read_text())
    with (out / "denoising.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train"] * 4 + ["test"] * 4
    assert [float(r["gap"]) for r in rows] == [v["gap"] for v in record["losses"]["levels"]]
    found = record["memorisation"]
    assert found["num_samples"] == 5 and found["num_train"] == 20 and found["num_val"] == 4
    assert set(record["seconds"]) == {"losses", "memorisation"}


def test_errors_equal_those_computed_by_hand(folder):
    """Every number again, with the posterior and the network called directly."""
    run = load_run(folder("flow", "model=flow"))
    data = run_data(run, None)
    found = denoising_errors(run, data, levels=3, num_images=5, batch_size=2, seed=4)
    images = run.value_range.encode(data.pixels("train")).double().flatten(1)
    for level in found:
        x0 = data.example_images(5, 4, level.split)
        t = torch.full((5,), level.t)
        assert level.log_snr == pytest.approx(2 * np.log((1 - level.t) / level.t), abs=1e-4)
        noise = torch.stack(
            [
                torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(int(state)))
                for k in range(5)
                for state in np.random.SeedSequence((4, k)).generate_state(1, np.uint64)
            ]
        )
        x_t = (1 - level.t) * x0 + level.t * noise
        network = (x_t - level.t * run.module(x_t, t)) - x0
        distance = cdist(x_t.flatten(1), (1 - level.t) * images, "sqeuclidean")
        weights = torch.softmax(torch.from_numpy(-distance / (2 * level.t**2)), 1)
        ideal = (weights @ images).view_as(x0) - x0
        mine = [e.double().square().flatten(1).mean(1).numpy() for e in (network, ideal)]
        for name, values in (
            ("network", mine[0]),
            ("ideal", mine[1]),
            ("gap", mine[0] - mine[1]),
        ):
            assert getattr(level, name) == pytest.approx(values.mean(), rel=2e-3, abs=1e-9)
            se = values.std(ddof=1) / 5**0.5
            assert getattr(level, f"{name}_se") == pytest.approx(se, rel=2e-2, abs=1e-9)


def test_fractions_and_weighting_equal_the_closed_forms_of_flow():
    """For an error on the velocity that is constant over the noise levels."""
    x = np.linspace(-6, 6, 61)
    t = 1 / (1 + np.exp(x / 2))
    levels = [
        Level(split, level, time, 9, time**2, 0, time**2 / 4, 0, 3 * time**2 / 4, 0)
        for split in ("train", "test")
        for level, time in zip(x, t, strict=True)
    ]
    implied = implied_weighting(UniformTime(), StraightPath(), UniformWeighting(), Flow())
    *_, fraction, weighting = levels_figure(levels, implied).axes
    density = 1 / np.cosh(x / 4) ** 2
    for line in fraction.lines:
        np.testing.assert_allclose(line.get_ydata(), density / np.trapezoid(density, x), rtol=0.02)
    names = [text.get_text() for text in fraction.get_legend().get_texts()]
    assert names == ["of the loss", "of the gap to the ideal"]
    on_x0, on_epsilon = weighting.lines
    for line, expected in (
        (on_x0, lambda x: np.exp(x / 2)),
        (on_epsilon, lambda x: np.exp(-x / 2)),
    ):
        curve = expected(line.get_xdata())
        np.testing.assert_allclose(line.get_ydata(), curve / curve.max(), rtol=0.05)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flow", ["model=flow"]),
        ("conditional", ["model=flow", "model.num_classes=10"]),
        ("edm", ["model=edm"]),
        ("ddpm", ["model=ddpm"]),
    ],
)
def test_the_ideal_denoiser_has_no_gap_to_itself(folder, name, words, monkeypatch):
    run = load_run(folder(name, *words))
    data = run_data(run, None)
    images, labels = data.examples(10**9)
    oracle = ImagesOracle(run.module.noise_schedule, images, labels)
    monkeypatch.setattr(run.module, "denoise", oracle)
    how = {"levels": 5, "num_images": 6, "batch_size": 4, "seed": 0}
    found = denoising_errors(run, data, **how)
    assert len(found) == 10
    assert all(abs(level.gap) < 1e-9 for level in found)
    train_errors = [level.ideal for level in found if level.split == "train"]
    assert train_errors[0] > 0.01 and train_errors[-1] < 1e-6  # noisiest first


@pytest.mark.slow
def test_a_note_names_where_uniform_noise_leaves_the_ideal_denoiser_undefined(folder, typed):
    run = folder("uniform", "model=basic_unet")
    code, out, err = typed("diagnose", f"run={run}", *SMALL, "parts=losses")
    assert code == 0, err
    assert "note: test images: uniform noise is bounded" in out
    record = record_of(run, out)
    levels = record["losses"]["levels"]
    assert all(v["ideal"] is not None and v["gap"] > 0 for v in levels if v["split"] == "train")
    assert any(v["ideal"] is None for v in levels if v["split"] == "test")
    assert "memorisation" not in record


@pytest.mark.slow
def test_memorisation_is_detected(folder, tmp_path, typed):
    """Samples of the ideal denoiser are training images; held-out images are not."""
    run = load_run(folder("many", "model=flow", "data.num_images=700", "data.val_size=300"))
    data = run_data(run, None)
    schedule = run.module.noise_schedule
    oracle = ImagesOracle(schedule, run.value_range.encode(data.pixels("train")))
    walk = sample_steps(oracle, schedule, BlendSampler(20), run.image_shape, num_images=40, seed=0)
    *_, last = walk
    copies = run.value_range.decode(last.x_next)
    found = memorisation(copies, data, num_held_out=300, seed=0).measured
    assert found["samples"]["below_1"] == found["samples"]["below_50"] == 1
    assert found["samples"]["closer"] == found["samples"]["copies"] == 1
    assert found["samples"]["below_1_low"] > 0.9

    # held-out training images give the values to expect of new images
    assert found["val"]["below_1"] < 0.05 and found["val"]["below_5"] < 0.12
    assert found["val"]["below_50"] == pytest.approx(0.5, abs=0.12)
    assert found["val"]["closer"] == pytest.approx(0.5, abs=4 * found["val"]["closer_se"])
    assert found["val"]["copies"] < 0.2  # data=fake has few kinds of images, some much alike

    # the same from a file of samples
    np.savez(tmp_path / "samples.npz", images=copies.numpy())
    words = ("parts=memorisation", f"samples={tmp_path / 'samples.npz'}", "num_held_out=300")
    code, out, err = typed("diagnose", f"run={run.dir}", *words)
    assert code == 0, err
    record = record_of(run.dir, out)
    assert record["memorisation"]["samples"] == found["samples"]


def test_the_nearest_against_scipy():
    rng = np.random.default_rng(0)
    queries = rng.integers(0, 256, (600, 784)).astype(np.float32) / 255
    references = rng.integers(0, 256, (900, 784)).astype(np.float32) / 255
    queries[3] = references[17]
    seen = []
    found = nearest(queries, references, seen.append)
    distances = np.sort(cdist(queries, references), axis=1)
    np.testing.assert_allclose(found.distance, distances[:, 0], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.second, distances[:, 1], rtol=1e-7)
    assert found.distance[3] == 0 and found.index[3] == 17
    assert seen == [500, 100]


def test_closeness_against_scipy():
    rng = np.random.default_rng(1)
    d, e = rng.gamma(5, size=70).round(1), rng.gamma(6, size=90).round(1)  # with ties
    second = d * rng.uniform(1, 6, 70)
    found = closeness(Nearest(d, second, np.zeros(70, int)), Nearest(e, e, np.zeros(90, int)))
    expected = mannwhitneyu(e, d).statistic / (70 * 90)
    assert found["closer"] == pytest.approx(expected)
    assert found["below_5"] == np.mean(d < np.percentile(e, 5))
    assert found["copies"] == np.mean(d / second < 1 / 3)
    assert found["median"] == np.median(d)
    draws = [
        mannwhitneyu(rng.choice(e, 90), rng.choice(d, 70)).statistic / 6300 for _ in range(400)
    ]
    assert found["closer_se"] == pytest.approx(np.std(draws), rel=0.15)


def test_distances_in_the_features_of_an_extractor(folder, typed):
    run = folder("flow", "model=flow")
    words = (*SMALL, "parts=memorisation", "extractor=mnist_v1")
    code, out, err = typed("diagnose", f"run={run}", *words)
    assert code == 0, err
    record = record_of(run, out)
    assert record["memorisation"]["distance"] == "features of mnist_v1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["parts=everything"], ["parts=everything", "memorisation"]),
        (["levels=1"], ["levels=1", "at least 2"]),
        (["num_images=1"], ["num_images=1", "at least 2"]),
        (["num_samples=0"], ["num_samples=0", "at least 1"]),
        (["num_held_out=0"], ["num_held_out=0", "at least 1"]),
        (["seed=-1"], ["seed"]),
        (["samples=nosuch.npz"], ["nosuch.npz", "sample"]),
        (["extractor=nosuch"], ["nosuch"]),
        (["weights=best"], ["weights=best"]),
        (["sampler.num_steps=0"], ["num_steps=0"]),
        (["level=3"], ["level", "levels"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_diagnose_rejects_bad_input(folder, typed, arguments, words):
    run = folder("flow", "model=flow")
    before = sorted(run.rglob("*"))
    assert_refused(typed("diagnose", f"run={run}", *arguments), *words)
    assert sorted(run.rglob("*")) == before


def test_a_class_without_training_images_is_rejected(folder, typed):
    run = folder("few", "model=flow", "model.num_classes=10", "data.train_size=4")
    before = sorted(run.rglob("*"))
    words = (f"run={run}", *SMALL, "num_images=500")
    assert_refused(typed("diagnose", *words), "num_images=500", "no images of these classes")
    assert sorted(run.rglob("*")) == before
    assert typed("diagnose", *words, "parts=memorisation")[0] == 0


def test_images_of_another_shape_and_a_missing_run_are_rejected(folder, typed, tmp_path):
    np.savez(tmp_path / "wide.npz", images=np.full((3, 1, 32, 32), 9, np.uint8))
    run = folder("flow", "model=flow")
    assert_refused(
        typed("diagnose", f"run={run}", f"samples={tmp_path / 'wide.npz'}"), "wide.npz", "28"
    )
    assert_refused(typed("diagnose"), "run= is missing")
    assert_refused(typed("diagnose", "run=nosuch"), "run=nosuch")

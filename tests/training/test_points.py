"""data=points through every command that a person types, and the commands that are for images."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.data.points.distributions import DISTRIBUTIONS
from diffusion_lab.runs.data import run_data
from tests.cli.test_bad_input import assert_refused
from tests.config.test_options import options

SMALL = (
    "data=points",
    "network=mlp",
    "network.width=16",
    "network.depth=1",
    "data.num_points=300",
    "data.num_test_points=120",
    "data.val_size=50",
    "data.batch_size=50",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.accelerator=cpu",
    "sampler.num_steps=3",
)
PLAIN = (*SMALL, "callbacks=minimal")
PICTURED = (*SMALL, "callbacks.samples.num_samples=40", "callbacks.figures.num_samples=40")
CONDITIONAL = (*PLAIN, "model=flow", "model.num_classes=2")
FLOW = ("model=flow", "data.distribution=eight_gaussians")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("points") / "run"
    train(compose_config([*PICTURED, *FLOW], folder))
    return folder


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("points") / "conditional"
    train(compose_config(CONDITIONAL, folder))
    return folder


def typed_folder(typed, *words):
    code, out, err = typed(*words)
    assert code == 0, err
    return Path(out.strip().splitlines()[-1])


def test_a_training_draws_points(run):
    figures = {path.stem for path in (run / "figures").glob("*.png")}
    shown = {"corruption", "data", "paths", "predictions", "trajectory", "vector_field"}
    assert figures == {*shown, "loss_curve", "noise_schedule", "samples", "samples_epoch_000"}
    record = json.loads((run / "metrics.json").read_text())
    assert record["status"] == "finished" and record["data"]["dataset"] == "eight_gaussians"
    assert math.isfinite(record["metrics"]["val/loss"])
    config = load_run(run).config["data"]
    assert config["value_range"] == "unbounded" and config["distribution"] == "eight_gaussians"


@pytest.mark.slow
def test_samples_are_numbers_and_figures_of_points(run, typed, tmp_path):
    out = typed_folder(typed, "sample", f"run={run}", "num_samples=30", "batch_size=20", "seed=4")
    assert {path.name for path in out.iterdir()} == {
        *("samples.npz", "samples.json", "samples.png"),
        *("denoising.gif", "trajectory.png", "paths.png", "vector_field.png"),
    }
    points = np.load(out / "samples.npz")["images"]
    assert points.shape == (30, 2, 1, 1) and points.dtype == np.float32
    loaded = load_run(run)
    again = loaded.sample(30, seed=4, batch_size=7)
    np.testing.assert_allclose(points, again, atol=1e-5)
    # all of them move, although they were sampled in two batches
    _, steps = loaded.sample_with_steps(30, loaded.sampler(), loaded.conditioning(), batch_size=20)
    assert [len(step.x_t) for step in steps] == [30] * 3
    with Image.open(out / "denoising.gif") as film:
        assert film.n_frames == 4


@pytest.mark.slow
def test_evaluation_and_its_files(run, typed, tmp_path):
    words = (f"run={run}", "num_samples=60", "seeds=2")
    code, out, err = typed("evaluate", *words)
    assert code == 0, err
    assert "coordinates, against 120 test points of eight_gaussians" in out
    assert "energy distance" in out and "log density (nats)" in out
    record = json.loads(Path(out.strip().splitlines()[-1], "evaluation.json").read_text())
    assert set(record["summary"]) == set(record["floor"]) - {"num_samples"}
    assert set(record["summary"]) == {"energy_distance", "log_density"}
    # two training steps are far from the data, real points are near
    assert record["summary"]["energy_distance"]["mean"] > record["floor"]["energy_distance"]["mean"]

    # the same scores from a file of the same points
    drawn = typed_folder(typed, "sample", f"run={run}", "num_samples=60")
    code, out, err = typed(
        *("evaluate", f"images={drawn / 'samples.npz'}", "data=points"),
        *("data.distribution=eight_gaussians", "data.num_points=300", "data.num_test_points=120"),
    )
    assert code == 0, err
    again = json.loads(Path(out.strip().splitlines()[-1], "evaluation.json").read_text())
    assert again["scores"][0]["energy_distance"] == pytest.approx(
        record["scores"][0]["energy_distance"], rel=1e-4
    )


def test_likelihood_beside_the_true_density(run, typed):
    code, out, err = typed("likelihood", f"run={run}", "num_images=9", "tolerance=1e-2")
    assert code == 0, err
    assert "9 points of test" in out and "true density" in out
    record = json.loads(Path(out.strip().splitlines()[-1], "likelihood.json").read_text())
    assert list(record["methods"]) == ["ode"]
    assert record["methods"]["ode"]["start_ratio"] == 0.002
    points = run_data(load_run(run), None).pixels("test")[record["images"]].flatten(1)
    density = DISTRIBUTIONS["eight_gaussians"].log_density(points)
    expected = -density.mean().item() / (2 * math.log(2))
    assert record["true_density"]["bits_per_dim"] == pytest.approx(expected)
    assert record["methods"]["ode"]["bits_per_dim"] > expected


@pytest.mark.slow
@pytest.mark.parametrize("model", options("model"))
def test_every_model_trains_on_points(model, typed):
    words = [*PLAIN, f"model={model}"]
    words += ["sampler=blend"] if model == "score_matching" else []
    if model == "ddpm":
        words += ["sampler.num_steps=2"]
        told = typed("train", *words)
        assert_refused(told, "DDIMScheduler clips to the range of pixels", "clip_sample=false")
        words += ["sampler.clip_sample=false"]
    out = typed_folder(typed, "train", *words)
    points = load_run(out).sample(5)
    assert points.dtype == torch.float32 and points.isfinite().all()


@pytest.mark.slow
def test_the_recipe_trains_on_a_bounded_distribution(typed):
    words = ("experiment=points", "data.distribution=checkerboard", *PICTURED[2:])
    out = typed_folder(typed, "train", *words)
    assert (out / "figures" / "vector_field.png").is_file()
    out = typed_folder(typed, "evaluate", f"run={out}", "num_samples=50", "seeds=1")
    scores = json.loads((out / "evaluation.json").read_text())["scores"][0]
    assert set(scores) == {"seed", "energy_distance", "support"}


@pytest.mark.slow
def test_samplers_are_compared_by_energy_distance(run, typed):
    out = typed_folder(
        *(typed, "tradeoff", f"run={run}", "num_samples=40", "num_steps=1,2"),
        "samplers=blend,heun",
    )
    rows = list(csv.DictReader((out / "tradeoff.csv").open()))
    assert len(rows) == 4 and all(float(row["energy_distance"]) > 0 for row in rows)
    assert any(row["front_calls"] == "True" for row in rows)
    assert (out / "tradeoff.png").is_file()


@pytest.mark.slow
def test_compare_diagnose_and_explain(run, conditional, typed, tmp_path):
    for folder in (run, run.parent / "other"):
        if folder != run:
            train(compose_config([*PLAIN, *FLOW, "seed=1"], folder))
        typed_folder(typed, "evaluate", f"run={folder}", "num_samples=40", "seeds=2")
    out = typed_folder(typed, "compare", f"runs={run},{run.parent / 'other'}")
    compared = json.loads((out / "comparison.json").read_text())["comparisons"]
    assert {each["metric"] for each in compared} == {"energy_distance", "log_density"}

    out = typed_folder(
        *(typed, "diagnose", f"run={run}", "levels=3", "num_images=20", "num_samples=20")
    )
    record = json.loads((out / "diagnose.json").read_text())
    assert record["memorisation"]["distance"] == "coordinates"
    # no denoiser is better on the training points than the ideal one
    of_train = [level for level in record["losses"]["levels"] if level["split"] == "train"]
    assert all(level["gap"] > -1e-4 for level in of_train)
    assert (out / "nearest.png").is_file()

    code, out, err = typed("explain", *SMALL, *FLOW)
    assert code == 0, err
    assert "data in unbounded" in out


@pytest.mark.slow
def test_classes_guidance_and_clusters(conditional, typed, tmp_path):
    out = typed_folder(
        *(typed, "sample", f"run={conditional}", "num_samples=20", "guidance_scale=1,3")
    )
    arrays = np.load(out / "samples.npz")
    assert arrays["images"].shape == (40, 2, 1, 1) and arrays["labels"].max() == 1
    assert (out / "guidance.png").is_file()
    words = [*PLAIN, "model=flow", "data.clusters=4", "model.num_classes=4"]
    out = typed_folder(typed, "train", *words)
    assert load_run(out).has_clusters


@pytest.mark.slow
def test_reflow_trains_on_the_points_of_a_teacher(run, typed):
    words = ["experiment=points", f"teacher.run={run}", "teacher.num_pairs=200", *PLAIN[6:]]
    out = typed_folder(typed, "train", *words)
    assert load_run(out).config["data"]["distribution"] == "eight_gaussians"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "data=points", "model=flow"], ["FastUNet is a network for images", "=mlp"]),
        (["explain", "data=points"], ["BasicUNet is a network for images", "network=mlp"]),
        (
            ["train", *PICTURED, "model=flow", "callbacks=fid"],
            ["FID needs pixels", "leave out callbacks=fid"],
        ),
        (["sample", "run={run}", "sampler=ddim"], ["clips", "sampler.clip_sample=false"]),
        (["evaluate", "run={run}", "extractor=mnist_v1"], ["extractor= has no effect"]),
        (["evaluate", "run={run}", "reference=train"], ["reference= has no effect"]),
        (["likelihood", "run={run}", "method=bound"], ["method=bound needs pixels", "=ode"]),
        (["likelihood", "run={run}", "draws=2"], ["draws=2 has no effect", "not dequantised"]),
        (["likelihood", "run={run}", "probes=2"], ["probes=2 has no effect", "exact"]),
        (["diagnose", "run={run}", "extractor=mnist_v1"], ["an extractor needs pixels"]),
        (["export", "run={run}", "out=made"], ["a pipeline of diffusers needs pixels"]),
        (["edit", "run={run}", "edit=invert", "images=test:0"], ["edit.py needs pixels"]),
        (
            ["train_extractor", "data=points", "version=points_v1"],
            ["a feature extractor needs pixels", "data="],
        ),
    ],
)
def test_what_is_for_images_says_so_in_one_line(words, told, run, typed, tmp_path):
    words = [word.replace("{run}", str(run)) for word in words]
    before = sorted(path for path in run.rglob("*") if "evaluation" not in str(path))
    assert_refused(typed(*words), *told)
    assert before == sorted(path for path in run.rglob("*") if "evaluation" not in str(path))
    assert not (tmp_path / "made").exists()

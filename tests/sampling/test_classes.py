"""Class conditioning and guidance through the command line."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.data.mnist.bundled import bundled_digits
from diffusion_lab.sampling import figures as module
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY, TINY_UNET_WORDS

CONDITIONAL = (*TINY, "model=flow", "network.width=8", "model.num_classes=10")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditional")
    train(compose_config([*CONDITIONAL, "callbacks=snapshots"], folder))
    return folder


def test_training_without_classes_uses_no_random_numbers_for_labels(tmp_path):
    losses = []
    for dropout in (0.1, 0.9):
        cfg = compose_config([*TINY, f"model.label_dropout={dropout}"], tmp_path / str(dropout))
        losses.append(train(cfg).metrics["train/loss"])
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_samples_of_every_class_and_scale(conditional, typed):
    code, out, err = typed(
        "sample", f"run={conditional}", "labels=all", "guidance_scale=0,1,3", "num_samples=20"
    )
    assert code == 0, err
    folder = out.strip().splitlines()[-1]
    samples = np.load(f"{folder}/samples.npz")
    assert samples["images"].shape == (60, 1, 28, 28)
    assert samples["labels"].tolist() == [*range(10)] * 6
    assert samples["guidance_scale"].tolist() == [0.0] * 20 + [1.0] * 20 + [3.0] * 20
    with Image.open(f"{folder}/guidance.png") as figure:
        assert figure.height > 10 * 28
    settings = json.loads(Path(folder, "samples.json").read_text())
    assert settings["guidance_scale"] == [0, 1, 3] and settings["weights"] == "ema"

    # the same images from Python, and image k for every batch size
    run = load_run(conditional)
    again = run.sample(20, labels="all", guidance_scale=3.0, batch_size=7)
    difference = again.numpy().astype(int) - samples["images"][40:].astype(int)
    assert np.abs(difference).max() <= 1


def test_guidance_png_has_a_row_per_class_and_a_column_per_scale(monkeypatch):
    shown = {}
    monkeypatch.setattr(
        module.figures, "labelled_table", lambda rows, columns: shown.update(rows | {"": columns})
    )
    numbered = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    monkeypatch.setattr(module.figures, "save_figure", lambda figure, path: path)
    sets = [numbered, numbered + 100]
    module.write_guidance_figure("guidance.png", sets, (3, 7), [1.0, 2.0], "class")
    assert shown.pop("") == ["scale 1", "scale 2"]
    found = {
        name: [(cell.flatten() * 255).round().int().tolist() for cell in cells]
        for name, cells in shown.items()
    }
    assert found == {
        "class 3": [[0, 2, 4], [100, 102, 104]],
        "class 7": [[1, 3, 5], [101, 103, 105]],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        (["labels=3"], [3] * 4),
        (["labels=0,7"], [0, 7] * 2),
        (["labels=[5]"], [5] * 4),
        (["labels=none"], None),
        ([], [0, 1, 2, 3]),
    ],
)
def test_labels_are_assigned_in_turn(conditional, typed, arguments, labels):
    code, out, err = typed("sample", f"run={conditional}", "num_samples=4", *arguments)
    assert code == 0, err
    samples = np.load(out.strip().splitlines()[-1] + "/samples.npz")
    assert (samples["labels"].tolist() if "labels" in samples else None) == labels


@pytest.mark.slow
def test_guidance_interval_and_autoguidance(conditional, typed):
    samples = {}
    for arguments in (
        ("guidance_scale=2",),
        ("guidance_scale=2", "guidance_interval=0.5,4"),
        ("guidance_scale=2", f"autoguidance={conditional}"),
        ("guidance_scale=2", "autoguidance=best"),
    ):
        code, out, err = typed("sample", f"run={conditional}", "num_samples=2", *arguments)
        assert code == 0, err
        samples[arguments] = np.load(out.strip().splitlines()[-1] + "/samples.npz")["images"]
    plain = load_run(conditional).sample(2)
    images = [*samples.values()]
    assert not np.array_equal(images[0], images[1])
    # autoguidance by the model itself changes nothing
    assert np.abs(images[2].astype(int) - plain.numpy().astype(int)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["inpaint", "invert", "interpolate", "image_to_image"])
def test_edits_are_conditioned_on_classes(conditional, typed, kind):
    edited = []
    for labels in ("labels=3", "labels=3,4", "labels=none"):
        scale = [] if labels == "labels=none" else ["guidance_scale=60"]
        more = [labels, *scale, "num_steps=3", "images=test:0-3"]
        if kind == "inpaint":
            more.append("jump_length=1")
        code, out, err = typed("edit", f"run={conditional}", f"edit={kind}", *more)
        assert code == 0, err
        edited.append(np.load(out.strip().splitlines()[-1] + "/edit.npz")["edited"].astype(int))
    three, both, none = edited
    assert np.abs(three[::2] - both[::2]).max() <= 1  # image 0 is a 3 in both
    assert np.abs(three[1] - both[1]).max() > 1
    assert np.abs(three - none).max() > 1
    assert_refused(
        typed("edit", f"run={conditional}", f"edit={kind}", "labels=11"), "labels=11", "0 to 9"
    )


REJECTED = [
    (["labels=1,2,3", "num_samples=2"], ["labels=[1, 2, 3]", "num_samples=2"]),
    (["labels=10"], ["labels=10", "0 to 9"]),
    (["labels=-1"], ["labels=-1", "0 to 9"]),
    (["labels=1,12"], ["labels=12", "0 to 9"]),
    (["labels=cat"], ["labels=cat", "labels=all"]),
    (["labels=3.5"], ["labels=3.5", "0 to 9"]),
    (["guidance_scale=nan"], ["guidance_scale=nan", "finite"]),
    (["labels=[]"], ["labels=[]"]),
    (["labels=none", "guidance_scale=2"], ["labels=none", "labels=all"]),
    (["guidance_scale=strong"], ["guidance_scale=strong", "0,1,3"]),
    (["guidance_scale=2", "guidance_interval=3"], ["guidance_interval"]),
    (["guidance_scale=2", "guidance_interval=[5,1]"], ["guidance_interval=[5, 1]", "low to high"]),
    (["guidance_interval=[1,5]"], ["guidance_interval", "guidance_scale=1"]),
    (["autoguidance=best"], ["autoguidance", "guidance_scale=1"]),
    (["autoguidance=nosuch", "guidance_scale=2"], ["autoguidance=nosuch", "last", "run folder"]),
    (["weights=best"], ["weights=best", "ema or raw"]),
]


@pytest.mark.parametrize(("arguments", "message"), REJECTED, ids=lambda v: " ".join(v))
def test_sampling_rejects(conditional, typed, arguments, message, tmp_path):
    out = tmp_path / "out"
    assert_refused(typed("sample", f"run={conditional}", f"out={out}", *arguments), *message)
    assert not out.exists()


def test_a_run_without_classes_rejects_labels_and_guidance(trained, typed):
    run = f"run={trained['ddpm']}"
    assert_refused(typed("sample", run, "labels=3"), "labels=3", "model.num_classes=10")
    assert_refused(typed("sample", run, "guidance_scale=2"), "guidance_scale=2", "autoguidance=")


def test_a_run_with_label_dropout_0_rejects_options_that_need_the_null_class(tmp_path, typed):
    train(compose_config([*CONDITIONAL, "model.label_dropout=0"], tmp_path / "run"))
    run = f"run={tmp_path / 'run'}"
    assert_refused(typed("sample", run, "guidance_scale=2"), "null class", "guidance_scale=1")
    assert_refused(typed("sample", run, "labels=none"), "null class", "label_dropout=0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.num_classes=7"], ["model.num_classes=7", "10 classes"]),
        (["model.num_classes=0"], ["model.num_classes=0", "10 classes"]),
        (["model.num_classes=10"], ["BasicUNet", "network=unet_fast"]),
        (["model.label_dropout=2"], ["model.label_dropout=2", "0 to 1"]),
    ],
    ids=lambda v: " ".join(v),
)
def test_training_rejects(typed, arguments, message):
    assert_refused(typed("train", *TINY, *arguments), *message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "network"),
    [
        ("unet2d", "unet2d"),
        *product(("basic_unet", "ddpm", "flow", "score_matching", "edm"), ("unet2d", "unet_fast")),
    ],
)
def test_every_model_trains_conditionally_on_every_network_with_labels(model, network, tmp_path):
    small = TINY_UNET_WORDS if network == "unet2d" else ["network.width=8"]
    message = [*TINY, f"model={model}", f"network={network}", "model.num_classes=10", *small]
    run = train(compose_config(message, tmp_path))
    assert run.module.num_classes == 10
    images = load_run(tmp_path).sample(3, num_steps=2, labels=[1, 2, 3], guidance_scale=1.5)
    assert images.shape == (3, 1, 28, 28)


@pytest.mark.slow
def test_samples_have_the_requested_class(tmp_path):
    """Train briefly on the bundled digits; classify samples by their nearest real digits."""
    from sklearn.neighbors import KNeighborsClassifier

    overrides = [
        "experiment=quickstart_classes",
        "data.source=bundled",
        "network.width=24",
        "callbacks=minimal",
        "trainer.accelerator=cpu",
        "trainer.max_time=null",
        "trainer.max_steps=300",
        f"paths.data_dir={tmp_path}",
    ]
    train(compose_config(overrides, tmp_path / "run"))
    run = load_run(tmp_path / "run")
    images = run.sample(100, labels="all", guidance_scale=2.0, num_steps=10)
    digits, classes = bundled_digits(tmp_path)
    classifier = KNeighborsClassifier(5).fit(digits.reshape(len(digits), -1), classes)
    predicted = classifier.predict(images.flatten(1).numpy())
    assert (predicted == np.arange(100) % 10).mean() > 0.8

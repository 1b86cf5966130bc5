"""Every command samples with the settings of the run's recipe by default."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from omegaconf import OmegaConf
from PIL import Image

from diffusion_lab import compose_config, figures, load_run, train
from diffusion_lab.commands.compare.evaluated_runs import read_runs
from diffusion_lab.commands.compare.seed_groups import group_runs
from diffusion_lab.config.groups import make_sampler
from diffusion_lab.diffusion import HeunSampler, StraightPath, sample_steps
from diffusion_lab.sampling.figures import grid_columns
from diffusion_lab.scoring.draw_set import counting
from tests.conftest import TINY
from tests.support.evaluated_runs import make_run

# a recipe that trains in a second; its sampling settings are unchanged
SMALL = [
    *(word for word in TINY if not word.startswith(("sampler", "callbacks", "data.val_size"))),
    "experiment=quickstart",
    "data.clusters=4",
    "data.val_size=4",
    "network.width=8",
    "network.depth=1",
    "trainer.max_time=null",
    "trainer.precision=32-true",
    "callbacks.samples.num_samples=6",
    "callbacks.figures.num_samples=6",
    "logger=csv",
    "trainer.limit_train_batches=5",
    "optimizer.lr=0.1",  # far from the initial weights, so that guidance has an effect
    "optimizer.adamw_lr=0.1",
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe") / "run"
    train(compose_config(SMALL, folder))
    return folder


def by_hand(run, num_samples, num_steps=5, scale=1.5, seed=0):
    """Sample uint8 (N, C, H, W) by explicit Euler steps with null + scale (class - null)."""
    module = run.module
    labels = torch.arange(num_samples) % module.num_classes
    null = torch.full_like(labels, module.num_classes)

    def denoise(x, t):
        weak = module.denoise(x, t, null)
        return weak + scale * (module.denoise(x, t, labels) - weak)

    with torch.inference_mode():
        *_, last = sample_steps(
            denoise,
            module.noise_schedule,
            make_sampler("blend", num_steps=num_steps),
            run.image_shape,
            num_images=num_samples,
            seed=seed,
        )
    return run.value_range.decode(last.x_next)


def apart(ours, theirs):
    """Return the largest difference in gray levels."""
    return np.abs(np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)).max()


def samples_of(out):
    return np.load(Path(out.strip().splitlines()[-1]) / "samples.npz")["images"]


@pytest.mark.slow
def test_grids_and_figures_of_the_training_are_guided(recipe, tmp_path):
    images = by_hand(load_run(recipe), 6).float() / 255
    figures.save_grid(images, tmp_path / "expected.png", grid_columns(4))
    expected = np.asarray(Image.open(tmp_path / "expected.png"))
    for name in ("samples_epoch_000.png", "samples.png"):
        assert apart(Image.open(recipe / "figures" / name), expected) <= 1, name


@pytest.mark.slow
def test_commands_and_python_sample_with_the_recipe(recipe, typed, tmp_path):
    run = load_run(recipe)
    expected = by_hand(run, 8)
    assert apart(run.sample(8), expected) <= 1
    code, out, err = typed("sample", f"run={recipe}", "num_samples=8")
    assert code == 0, err
    assert "sampler=blend sampler.num_steps=5 guidance_scale=1.5; NFE 10" in out
    assert apart(samples_of(out), expected) <= 1
    explicit = ["sampler.num_steps=5", "guidance_scale=1.5"]
    _, out, _ = typed("sample", f"run={recipe}", "num_samples=8", *explicit)
    assert np.array_equal(samples_of(out), run.sample(8))
    # without the recipe's guidance, the images differ
    _, out, _ = typed(
        "sample", f"run={recipe}", "num_samples=8", "sampler.num_steps=10", "guidance_scale=1"
    )
    assert apart(samples_of(out), by_hand(run, 8, 10, 1.0)) <= 1
    assert apart(samples_of(out), expected) > 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sampler=heun"], "sampler=heun sampler.num_steps=20 guidance_scale=1.5; NFE 78"),
        (["sampler=heun", "sampler.num_steps=3"], "num_steps=3 guidance_scale=1.5; NFE 10"),
        (["sampler.num_steps=7"], "sampler=blend sampler.num_steps=7 guidance_scale=1.5; NFE 14"),
        (["guidance_scale=1"], "sampler.num_steps=5 guidance_scale=1; NFE 5"),
        (["guidance_scale=0,1,3"], "guidance_scale=0,1,3; NFE 5, 5, 10"),
        (["labels=none"], "sampler.num_steps=5 guidance_scale=1; NFE 5"),
        # of t = 1, 0.8, ..., 0.2 only 0.6 and 0.4 lie in the interval
        (["guidance_interval=0.5,2"], "guidance_scale=1.5 guidance_interval=0.5,2; NFE 7"),
        (["autoguidance=best"], "sampler.num_steps=5 guidance_scale=1.5; NFE 10"),
    ],
)
def test_overrides_replace_the_recipe_and_are_printed(recipe, typed, arguments, line):
    code, out, err = typed("sample", f"run={recipe}", "num_samples=4", *arguments)
    assert code == 0, err
    assert line in out
    # the network evaluates the printed number of images
    run = load_run(recipe)
    calls = line.rpartition("NFE ")[2]
    if "," not in calls and "autoguidance" not in arguments[0]:
        given = dict(word.split("=") for word in arguments)
        scale = given.get("guidance_scale")
        low, _, high = given.get("guidance_interval", "").partition(",")
        conditioning = run.conditioning(
            given.get("labels"),
            None if scale is None else float(scale),
            [float(low), float(high)] if low else None,
        )
        steps = given.get("sampler.num_steps")
        sampler = run.sampler() if "sampler" not in given else HeunSampler(20)
        sampler.num_steps = int(steps) if steps else sampler.num_steps
        with counting(run.module.network) as seen, torch.inference_mode():
            list(
                sample_steps(
                    conditioning.denoiser(run.module, 0, 3),
                    run.module.noise_schedule,
                    sampler,
                    run.image_shape,
                    num_images=3,
                    seed=0,
                )
            )
        assert seen() == 3 * int(calls)


@pytest.mark.slow
def test_evaluation_diagnosis_and_tradeoff_are_guided(recipe, typed, bars):
    small = ["num_samples=70", "batch_size=35"]
    scores = []
    for more in ([], ["sampler.num_steps=5", "guidance_scale=1.5"], ["guidance_scale=1"]):
        code, out, err = typed(
            "evaluate", f"run={recipe}", f"extractor={bars}", "seeds=1", *small, *more
        )
        assert code == 0, err
        found = json.loads(Path(out.strip().splitlines()[-1], "evaluation.json").read_text())
        assert found["sampling"] in out
        scores.append((found["scores"], found["guidance_scale"], found["num_calls"]))
    assert scores[0] == scores[1] and scores[0][1:] == (1.5, 10.0)
    assert scores[2][1:] == (1.0, 5.0) and scores[2][0] != scores[0][0]

    code, out, err = typed(
        "tradeoff", f"run={recipe}", f"extractor={bars}", *small, "samplers=blend", "num_steps=2"
    )
    assert code == 0, err
    settings = json.loads(Path(out.strip().splitlines()[-1], "tradeoff.json").read_text())
    assert settings["settings"]["guidance_scale"] == 1.5 and "guidance_scale=1.5" in out
    assert settings["costs"]["blend 2"]["calls"] == 4

    words = ["parts=memorisation", "num_samples=4", "num_held_out=4"]
    code, out, err = typed("diagnose", f"run={recipe}", *words)
    assert code == 0, err
    assert "samples: sampler=blend sampler.num_steps=5 guidance_scale=1.5; NFE 10" in out
    found = json.loads(Path(out.strip().splitlines()[-1], "diagnose.json").read_text())
    assert found["memorisation"]["guidance_scale"] == 1.5


def test_an_exported_pipeline_has_the_defaults_of_the_recipe(recipe, typed, tmp_path):
    out = tmp_path / "exported"
    code, printed, err = typed("export", f"run={recipe}", f"out={out}")
    assert code == 0, err
    assert "sampler=blend sampler.num_steps=5 guidance_scale=1.5" in printed
    pipe = DiffusionPipeline.from_pretrained(out, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)

    def images(**call):
        generators = [torch.Generator().manual_seed(k) for k in range(4)]
        return pipe(
            batch_size=4, class_labels=range(4), generator=generators, output_type="np", **call
        ).images

    default = images()
    assert np.array_equal(default, images(num_inference_steps=5, guidance_scale=1.5))
    assert np.abs(default - images(guidance_scale=1.0)).max() > 0.02
    assert np.abs(default - images(num_inference_steps=6)).max() > 0.005


@pytest.mark.slow
def test_an_exported_pipeline_has_the_guidance_interval_of_the_run(tmp_path, typed):
    more = ["guidance_interval=[0.5,2]", "trainer.max_epochs=1"]
    train(compose_config([*SMALL, *more], tmp_path / "run"))
    code, _, err = typed("export", f"run={tmp_path / 'run'}", f"out={tmp_path / 'exported'}")
    assert code == 0, err
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "exported", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    with counting(pipe.unet) as seen:
        pipe(batch_size=4, class_labels=range(4), num_inference_steps=5)
    assert seen() == 4 * 7
    assert sum(load_run(tmp_path / "run").conditioning().network_calls(
        make_sampler("blend", num_steps=5), StraightPath(), (1, 28, 28)
    )) == 7  # fmt: skip


def without_defaults(folder):
    """Rewrite a run folder to one of before these defaults existed."""
    path = folder / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    saved = OmegaConf.load(folder / ".hydra" / "config.yaml")
    for config in (state["config"], saved):
        for node in (config, *(config["callbacks"][name] for name in ("samples", "figures"))):
            del node["guidance_scale"], node["guidance_interval"]
            if config is state["config"]:  # resolved; the file follows the sampler above
                node["sampler"]["num_steps"] = 10
        config["sampler"]["num_steps"] = 10
    torch.save(state, path)
    OmegaConf.save(saved, folder / ".hydra" / "config.yaml")


@pytest.mark.slow
def test_an_older_run_samples_and_resumes_unchanged(tmp_path, typed):
    folder = tmp_path / "old"
    train(compose_config(SMALL, folder))
    without_defaults(folder)
    run = load_run(folder)
    plain = run.sample(8)
    assert np.array_equal(plain, run.sample(8, num_steps=10, guidance_scale=1.0))
    assert apart(plain, by_hand(run, 8, 10, 1.0)) <= 1
    code, out, err = typed("sample", f"run={folder}", "num_samples=8")
    assert code == 0, err
    assert "sampler.num_steps=10 guidance_scale=1; NFE 10" in out
    assert np.array_equal(samples_of(out), plain)
    code, out, err = typed("train", f"resume={folder}", "trainer.max_epochs=2")
    assert code == 0, out + err
    run = load_run(folder)
    figures.save_grid(
        by_hand(run, 6, 10, 1.0).float() / 255, tmp_path / "expected.png", grid_columns(4)
    )
    expected = Image.open(tmp_path / "expected.png")
    assert apart(Image.open(folder / "figures" / "samples_epoch_001.png"), expected) <= 1


def test_an_older_run_and_a_new_one_count_as_one_recipe(tmp_path):
    old = make_run(tmp_path / "old", [1.0, 2.0])
    now = {"guidance_scale": 1.5, "sampler": {"num_steps": 5}}
    new = make_run(tmp_path / "new", [1.0, 2.0], seed=1, config=now)
    assert len(group_runs(read_runs([old, new]))) == 1


def test_a_teacher_samples_with_its_own_recipe(recipe, tmp_path):
    words = [
        *TINY,
        "model=flow",
        f"teacher.run={recipe}",
        "teacher.num_pairs=12",
        "data.val_size=4",
        "guidance_scale=1",
    ]
    train(compose_config(words, tmp_path / "student"))
    with np.load(tmp_path / "student" / "pairs.npz") as arrays:
        assert apart(arrays["images"], by_hand(load_run(recipe), 12)) <= 1
    assert load_run(tmp_path / "student").config["teacher"]["guidance_scale"] == 1.5

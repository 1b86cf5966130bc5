"""Reflow: train a student on pairs of noise and the teacher's samples."""

import json
import shutil

import numpy as np
import pytest
import torch

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.diffusion import NoiseEndTime, StraightPath, VPSchedule
from diffusion_lab.diffusion.samplers.base import first_noise, image_generators
from tests.conftest import TINY

TEACHER = [*TINY, "model=flow", "network.width=8", "network.depth=1", "model.num_classes=10"]
FEW = [
    *TINY[2:],
    "experiment=one_step",
    "data.val_size=4",
    "teacher.num_pairs=24",
    "sampler@teacher.sampler=blend",
    "teacher.sampler.num_steps=3",
    "teacher.guidance_scale=2",
    "trainer.max_time=null",
    "trainer.precision=32-true",  # on whatever processor, to compare numbers
    "sampler.num_steps=1",
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(compose_config(TEACHER, folder))
    return folder


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student") / "run"
    train(compose_config([*FEW, f"teacher.run={teacher}", "seed=7"], folder))
    return folder


def test_pairs_are_noise_and_the_teachers_samples(teacher, student):
    own = load_run(teacher).sample(24, seed=7, num_steps=3, guidance_scale=2.0)
    with np.load(student / "pairs.npz") as arrays:
        assert np.array_equal(arrays["images"], own.numpy())
        assert arrays["labels"].tolist() == [k % 10 for k in range(24)]


def test_loss_uses_the_pairs_noise(teacher, tmp_path):
    """Compute the validation loss by hand: pairs 0 to 3, velocity noise - image, clipped."""
    words = [*FEW, f"teacher.run={teacher}", "seed=7", "optimizer.lr=0", "optimizer.adamw_lr=0"]
    result = train(compose_config(words, tmp_path))
    run = load_run(teacher)
    images = run.value_range.encode(run.sample(4, seed=7, num_steps=3, guidance_scale=2.0))
    noise = first_noise(run.module.noise_schedule, (1, 28, 28), image_generators(7, 0, 4))
    generator = torch.Generator().manual_seed(0)
    t = NoiseEndTime(0.8).draw(4, run.module.noise_schedule, "cpu", generator)
    assert (t == 1).sum() in range(1, 5)
    at = t[:, None, None, None]
    velocity = run.module((1 - at) * images + at * noise, t, torch.arange(4))
    clean = (1 - at) * images + at * noise - at * velocity
    black, white = images == -1, images == 1
    safe = images + 0.1 * white - 0.1 * black
    goal = images + at * (safe - images)
    beyond = black & (clean < goal) | white & (clean > goal)
    assert beyond.any() and not beyond.all()
    expected = ((velocity - (noise - safe)) * ~beyond).square().mean()
    assert result.metrics["val/loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_student_starts_with_the_teachers_weights(teacher, tmp_path):
    words = [*FEW, f"teacher.run={teacher}", "optimizer.lr=0", "optimizer.adamw_lr=0"]
    train(compose_config(words, tmp_path))
    ours, theirs = (load_run(folder).module.state_dict() for folder in (tmp_path, teacher))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.slow
def test_student_of_a_teacher_with_a_learned_weighting(tmp_path):
    train(compose_config([*TEACHER, "weighting=learned"], tmp_path / "teacher"))
    words = [*FEW, f"teacher.run={tmp_path / 'teacher'}", "optimizer.lr=0", "optimizer.adamw_lr=0"]
    train(compose_config(words, tmp_path / "student"))
    ours, theirs = (
        load_run(tmp_path / name).module.network.state_dict() for name in ("student", "teacher")
    )
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_student_is_a_normal_run(teacher, student, typed, tmp_path):
    run = load_run(student)
    assert run.config["data"]["name"] == "fake" and run.module.num_classes == 10
    assert run.config["network"] == load_run(teacher).config["network"]
    assert run.sampler().num_steps == 1
    assert run.sample(3, labels=[4], num_steps=2).shape == (3, 1, 28, 28)
    data = json.loads((student / "metrics.json").read_text())["data"]
    assert (data["num_train"], data["num_val"]) == (20, 4)
    assert data["note"].startswith("24 images drawn by ") and str(teacher) in data["note"]
    code, out, _ = typed("sample", f"run={student}", "num_samples=4", f"out={tmp_path / 'drawn'}")
    assert code == 0, out
    code, _, err = typed("sample", f"run={student}", "guidance_scale=2")
    assert code == 2 and "label_dropout=0" in err


@pytest.mark.slow
def test_straightening_learns_the_map(tmp_path):
    """With NFE 1 the student is nearer to the teacher's images than the teacher itself."""
    longer = ["trainer.limit_train_batches=null", "callbacks.ema=null", "data.batch_size=16"]
    teacher = [*TEACHER, *longer, "optimizer=muon", "data.num_images=324", "trainer.max_epochs=10"]
    train(compose_config(teacher, tmp_path / "teacher"))
    more = [*longer, "trainer.max_epochs=25", "teacher.num_pairs=324"]
    words = [*FEW, *more, f"teacher.run={tmp_path / 'teacher'}"]
    train(compose_config(words, tmp_path / "student"))
    run = load_run(tmp_path / "teacher")
    wanted = run.sample(200, num_steps=3, guidance_scale=2.0)[4:].float()
    one_call = (
        load_run(tmp_path / who).sample(200, num_steps=1)[4:] for who in ("student", "teacher")
    )
    student, before = ((images - wanted).square().mean().item() for images in one_call)
    assert student < 0.75 * before


@pytest.mark.slow
def test_student_resumes_without_its_teacher(teacher, tmp_path, typed):
    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    words = [*FEW, f"teacher.run={moved}", "lr_scheduler=none"]
    whole = train(compose_config([*words, "trainer.max_epochs=2"], tmp_path / "whole"))
    train(compose_config([*words, "trainer.max_epochs=1"], tmp_path / "part"))
    shutil.rmtree(moved)
    pairs = tmp_path / "part" / "pairs.npz"
    content = pairs.read_bytes()
    pairs.write_bytes(content[:-100])
    code, _, err = typed("train", f"resume={tmp_path / 'part'}", "trainer.max_epochs=2")
    assert code == 2 and "pairs.npz is damaged" in err and len(err.strip().splitlines()) == 1
    pairs.write_bytes(content)
    code, out, err = typed("train", f"resume={tmp_path / 'part'}", "trainer.max_epochs=2")
    assert code == 0, out + err
    resumed = load_run(tmp_path / "part", weights="raw").module.state_dict()
    for name, value in whole.module.state_dict().items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["teacher.run=logs/runs/<run>"]),
        (["teacher.run=nowhere"], ["teacher.run=nowhere is no folder"]),
        (["teacher.run={}", "network=basic_unet"], ["leave out network=basic_unet"]),
        (["teacher.run={}", "data=mnist"], ["leave out data=mnist"]),
        (["teacher.run={}", "pairing=optimal_transport"], ["leave out pairing="]),
        (["teacher.run={}", "data.train_size=3"], ["data.train_size=3", "teacher.num_pairs"]),
        (["teacher.run={}", "teacher.num_pairs=4"], ["data.val_size=4", "number of pairs"]),
        (["teacher.run={}", "teacher.sampler.steps=3"], ["teacher.sampler.steps"]),
        (["teacher.run={}", "teacher.num_pairs=0"], ["teacher.num_pairs=0"]),
        (["teacher.run={}", "teacher.sampler.num_steps=0"], ["num_steps=0"]),
        (["teacher.run={}", "teacher.guidance_scale=nan"], ["guidance_scale=nan"]),
    ],
)
def test_options_that_conflict_with_the_teacher_are_rejected(words, said, teacher, typed):
    code, _, err = typed("train", *FEW[:-5], *(word.format(teacher) for word in words))
    lines = err.strip().splitlines()
    assert code == 2 and len(lines) == 1
    assert all(part in lines[0] for part in said), lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=ddpm"], "epsilon"),
        (["model=flow", "model.num_classes=10"], "is stochastic"),
        (["model=flow"], "no classes"),
    ],
)
def test_runs_that_cannot_teach_are_rejected(words, said, typed, tmp_path):
    if "model=ddpm" in words:
        words = [*words, "network=unet_fast"]
    train(compose_config([*TINY, *words, "network.width=8", "network.depth=1"], tmp_path / "run"))
    random = ["sampler@teacher.sampler=reverse_sde"] if "stochastic" in said else []
    code, _, err = typed("train", *FEW, f"teacher.run={tmp_path / 'run'}", *random)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1


def test_teacher_with_foreign_code_is_rejected(teacher, typed, tmp_path):
    """Also in parts that `load_run` does not build."""
    forged = tmp_path / "forged"
    shutil.copytree(teacher, forged)
    path = forged / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    state["config"]["network"] = {"_target_": "os.system", "command": f"touch {tmp_path / 'ran'}"}
    torch.save(state, path)
    code, _, err = typed("train", *FEW, f"teacher.run={forged}")
    assert code == 2 and "os.system" in err and not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_without_classes_or_guidance(tmp_path):
    small = ["network.width=8", "network.depth=1"]
    train(compose_config([*TINY, "model=flow", *small], tmp_path / "teacher"))
    words = [*FEW, f"teacher.run={tmp_path / 'teacher'}", "teacher.guidance_scale=1"]
    result = train(compose_config(words, tmp_path / "student"))
    assert result.module.num_classes is None and result.trainer.global_step == 2


@pytest.mark.parametrize("noise_schedule", [StraightPath(), VPSchedule()])
def test_noise_end_samples_its_fraction_at_the_end(noise_schedule):
    generator = torch.Generator().manual_seed(0)
    t = NoiseEndTime(0.3).draw(4000, noise_schedule, generator=generator).double()
    end = noise_schedule.at(torch.ones(1)).double()
    at_end = (t == end).double().mean()
    assert at_end == pytest.approx(0.3, abs=0.03)
    rest = t[t != end] / end
    assert rest.mean() == pytest.approx(0.5, abs=0.03)
    assert rest.std() == pytest.approx(12**-0.5, abs=0.02)

"""Diffusers pipelines: sampled with this project's samplers, and fine-tuned."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.diffusion.samplers.base import image_generators
from diffusion_lab.runs.diffusers_pipeline import load_pipeline
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY

SMALL = {
    "sample_size": 28,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "layers_per_block": 1,
}


def make_pipeline(folder, scheduler=None, pipeline=DDPMPipeline, **unet):
    torch.manual_seed(0)
    made = pipeline(UNet2DModel(**SMALL | unet), scheduler or DDPMScheduler())
    made.save_pretrained(folder)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline")
    make_pipeline(path)
    return path


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2"])
def test_samples_equal_diffusers_own(tmp_path, prediction, betas):
    scheduler = DDIMScheduler(
        beta_schedule=betas, prediction_type=prediction, timestep_spacing="trailing"
    )
    theirs = make_pipeline(tmp_path, scheduler, DDIMPipeline)
    theirs.set_progress_bar_config(disable=True)
    pictures = theirs(
        3, generator=image_generators(5, 0, 3), num_inference_steps=8, output_type="np"
    ).images
    ours = load_pipeline(tmp_path).sample(3, seed=5, num_steps=8)
    difference = pictures.transpose(0, 3, 1, 2) * 255 - ours.numpy()
    assert np.abs(difference).max() <= 0.51  # ours are rounded to whole levels


def test_pipelines_of_wide_colour_images_with_one_head_per_attention(tmp_path):
    """google/ddpm-cifar10-32 has attention_head_dim null."""
    unet = {
        "sample_size": (8, 12),
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "attention_head_dim": None,
    }
    theirs = make_pipeline(
        tmp_path, DDIMScheduler(timestep_spacing="trailing"), DDIMPipeline, **unet
    )
    theirs.set_progress_bar_config(disable=True)
    generators = image_generators(5, 0, 2)
    images = theirs(2, generator=generators, num_inference_steps=4, output_type="np").images
    ours = load_pipeline(tmp_path).sample(2, seed=5, num_steps=4)
    assert ours.shape == (2, 3, 8, 12)
    assert np.abs(images.transpose(0, 3, 1, 2) * 255 - ours.numpy()).max() <= 0.52


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["blend", "heun", "ddpm", "dpm_solver", "euler_ancestral"])
def test_any_sampler_works_on_a_pipeline(folder, typed, tmp_path, sampler):
    out = tmp_path / "out"
    code, _, err = typed(
        "sample",
        f"pipeline={folder}",
        f"sampler={sampler}",
        "sampler.num_steps=3",
        "num_samples=2",
        f"out={out}",
    )
    assert code == 0, err
    assert np.load(out / "samples.npz")["images"].shape == (2, 1, 28, 28)
    assert not (folder / "samples").exists()


def test_training_starts_from_pipeline_weights_and_the_run_stands_alone(folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    cfg = compose_config(
        [*TINY, "model=ddpm", f"init_from={source}", "optimizer.lr=0"], tmp_path / "run"
    )
    result = train(cfg)
    expected = UNet2DModel.from_pretrained(source / "unet").state_dict()
    for name, value in result.module.network.unet.state_dict().items():
        assert torch.equal(value, expected[name]), name
    shutil.rmtree(source)
    assert load_run(tmp_path / "run").sample(2, num_steps=2).shape == (2, 1, 28, 28)


def test_training_may_add_classes(folder, tmp_path):
    overrides = [*TINY, "model=ddpm", f"init_from={folder}", "model.num_classes=10"]
    train(compose_config(overrides, tmp_path / "run"))
    images = load_run(tmp_path / "run").sample(2, num_steps=2, labels=[1, 2], guidance_scale=2.0)
    assert images.shape == (2, 1, 28, 28)


def test_another_objective_logs_a_warning(folder, tmp_path, caplog):
    overrides = [*TINY, "model=ddpm", f"init_from={folder}", "prediction=v_prediction"]
    train(compose_config(overrides, tmp_path / "run"))
    assert "prediction=epsilon" in caplog.text and "prediction=v_prediction" in caplog.text


@pytest.mark.slow
def test_mismatching_options_are_rejected(folder, runs, typed, tmp_path):
    start = ("train", *TINY, "model=ddpm", f"init_from={folder}")
    assert_refused(typed(*start, "network=unet_fast"), "leave out network=unet_fast")
    assert_refused(typed(*start, "data.image_size=32"), "28", "data.image_size=32")
    assert_refused(typed("train", *TINY, "init_from=nowhere"), "init_from=nowhere does not exist")
    pipe = f"pipeline={folder}"
    assert_refused(typed("sample", pipe, f"run={runs['stock']}"), "one of run=", "pipeline=")
    assert_refused(typed("sample"), "run=logs/runs/<name>", "pipeline=")
    assert_refused(typed("sample", pipe, "labels=1"), "labels=1", "no classes")
    assert_refused(typed("sample", pipe, "weights=ema"), "weights=ema", "run=")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("keep")
    assert_refused(typed("sample", pipe, f"out={full}"), "is not empty")
    assert [p.name for p in full.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_pipeline_with_another_network_is_rejected(folder, typed, tmp_path):
    def changed(name, file, **news):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        content = json.loads((copy / file).read_text())
        (copy / file).write_text(json.dumps(content | news))
        return f"pipeline={copy}"

    other = changed("other", "model_index.json", unet=["diffusers", "UNet2DConditionModel"])
    assert_refused(typed("sample", other), "UNet2DConditionModel", "UNet2DModel")
    learned = changed("learned", "unet/config.json", out_channels=2)
    assert_refused(typed("sample", learned), "learned")
    classes = tmp_path / "classes"
    make_pipeline(classes, num_class_embeds=11)
    assert_refused(typed("sample", f"pipeline={classes}"), "classes")
    from diffusers import FlowMatchEulerDiscreteScheduler

    flow = tmp_path / "flow"
    shutil.copytree(folder, flow)
    FlowMatchEulerDiscreteScheduler().save_pretrained(flow / "scheduler")
    assert_refused(typed("sample", f"pipeline={flow}"), "FlowMatchEuler", "betas")
    (tmp_path / "empty").mkdir()
    assert_refused(typed("sample", f"pipeline={tmp_path / 'empty'}"), "model_index.json")

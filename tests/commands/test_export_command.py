"""scripts/export.py: side effects on a training, rejected options, and the exported weights."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffusion_lab.commands.export import export
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import (
    BlendSampler,
    Epsilon,
    Flow,
    NoiseSchedule,
    StraightPath,
    VPrediction,
    VPSchedule,
)
from diffusion_lab.errors import UserError
from diffusion_lab.export import export_pipeline
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.runs.diffusers_pipeline import load_pipeline
from diffusion_lab.runs.load import load_run
from diffusion_lab.system.atomic import new_folder
from tests.cli.test_bad_input import assert_refused
from tests.export.test_export import SHAPE, config, ddim, fast, unet2d


def steps_of_training(tmp_path, exports):
    torch.set_num_threads(1)  # as in test_export
    torch.manual_seed(0)
    module = DiffusionModule(unet2d(dropout=0.1), VPSchedule(), Epsilon())
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    x0 = torch.randn(4, *SHAPE)
    flags = []
    for step in range(3):
        noise = module.noise_schedule.draw_noise(x0)
        loss = module.losses(x0, noise, torch.randint(1000, (4,)))[1].mean()
        loss.backward()
        if exports and step == 1:  # between the gradients and their use
            export_pipeline(module, tmp_path / "out", ddim(), ValueRange("minus_one_one"), SHAPE)
        optimizer.step()
        optimizer.zero_grad()
        flags.append([m.training for m in module.modules()])
    return module, torch.get_rng_state(), flags


def test_an_export_during_training_does_not_change_it(tmp_path):
    plain, random, flags = steps_of_training(tmp_path, exports=False)
    interrupted, *same = steps_of_training(tmp_path, exports=True)
    assert torch.equal(same[0], random) and same[1] == flags
    weights, others = interrupted.state_dict(), plain.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    formats = [p.is_contiguous(memory_format=torch.channels_last) for p in plain.parameters()]
    assert formats == [
        p.is_contiguous(memory_format=torch.channels_last) for p in interrupted.parameters()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("network", [unet2d, fast])
def test_a_compiled_network_exports_without_prefixes(tmp_path, network):
    module = DiffusionModule(network(), VPSchedule(), VPrediction())
    parts = (ddim(), ValueRange("minus_one_one"), SHAPE)
    export_pipeline(module, tmp_path / "plain", *parts)
    module.network.compile()
    export_pipeline(module, tmp_path / "in place", *parts)
    module.network = torch.compile(module.network)
    export_pipeline(module, tmp_path / "wrapped", *parts)
    weights, *others = (
        load_file(tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors")
        for name in ("plain", "in place", "wrapped")
    )
    for other in others:
        assert weights.keys() == other.keys()
        assert all(torch.equal(weights[name], other[name]) for name in weights)
    index = json.loads((tmp_path / "wrapped" / "model_index.json").read_text())
    assert index == json.loads((tmp_path / "plain" / "model_index.json").read_text())


def test_the_error_names_a_part_without_a_diffusers_counterpart(tmp_path):
    class OwnPath(StraightPath):
        """A subclass that changes nothing: still a straight path."""

    class Another(NoiseSchedule):
        alpha = sigma = at = time_at_noise_ratio = timesteps = network_time = None
        max_ratio = min_ratio = 1.0

    def refused(module):
        with pytest.raises(UserError) as error:
            export_pipeline(
                module, tmp_path / "out", BlendSampler(2), ValueRange("zero_one"), SHAPE
            )
        assert not (tmp_path / "out").exists()
        return str(error.value)

    plain = nn.Conv2d(1, 1, 1)
    assert "Conv2d" in refused(DiffusionModule(plain, StraightPath(), Flow()))
    assert "Another" in refused(DiffusionModule(fast(), Another(), Flow()))
    flow = Flow()
    flow.name = "curl"
    assert "prediction=curl" in refused(DiffusionModule(fast(), StraightPath(), flow))
    parts = (BlendSampler(2), ValueRange("zero_one"), SHAPE)
    export_pipeline(DiffusionModule(fast(), OwnPath(), Flow()), tmp_path / "out", *parts)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    def interrupted():
        with new_folder(tmp_path / "out") as part:
            (part / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as part:
        (part / "whole").touch()
    assert [p.name for p in (tmp_path / "empty").iterdir()] == ["whole"]
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["run= is missing", "out="]),
        (["run={run}"], ["out= is missing"]),
        (["run=nowhere", "out=new"], ["run=nowhere is no folder"]),
        (["run={run}", "out={run}"], ["is not empty", "out="]),
        (["run={run}", "out={run}/metrics.json"], ["is a file"]),
        (["run={run}", "out=/proc/nowhere"], ["/proc/nowhere cannot be created"]),
        (["run={run}", "out=new", "checkpoint=first"], ["best or last"]),
        (["run={run}", "out=new", "weights=mean"], ["weights=mean"]),
        (["run={run}", "out=new", "sampler=dpm_solver"], ["sampler=ddim"]),
        (["run={run}", "out=new", "sampler.num_steps=0"], ["num_steps=0"]),
        (["run={run}", "out=new", "sampler=nothing"], ["blend", "ddim"]),
        (["run={run}", "out=new", "onnxx=true"], ["onnxx"]),
        (["run={run}", "out=new", "--push", "a/b/c"], ["push=a/b/c", "<user>/<name>"]),
        (["run={run}", "out=new", "--push"], ["push=", "<user>/<name>"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_export_rejects_bad_input(typed, runs, tmp_path, arguments, words):
    before = sorted(runs["stock"].rglob("*"))
    contents = (runs["stock"] / "metrics.json").read_bytes()
    assert_refused(typed("export", *(a.format(run=runs["stock"]) for a in arguments)), *words)
    assert sorted(runs["stock"].rglob("*")) == before
    assert (runs["stock"] / "metrics.json").read_bytes() == contents
    assert not list(tmp_path.iterdir())


def test_the_averaged_weights_are_the_default(runs, tmp_path):
    path = runs["stock"] / "checkpoints" / "last.ckpt"
    state = torch.load(path, map_location="cpu", weights_only=True)
    kept = {
        None: state["ema"]["weights"],
        "raw": state["state_dict"],
        "ema": state["ema"]["weights"],
    }
    for weights, expected in kept.items():
        out = tmp_path / str(weights)
        export(config(run=str(runs["stock"]), out=str(out), weights=weights))
        saved = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
        assert saved
        for name, value in saved.items():
            assert torch.equal(value, expected[f"network.unet.{name}"])
        word = f"| weights | {weights or 'ema'} of checkpoint last |"
        assert word in (out / "README.md").read_text()
    name = "network.unet.conv_in.weight"
    assert not torch.equal(kept["ema"][name], kept["raw"][name])


def test_an_export_samples_the_same_images_as_the_run(runs, tmp_path):
    export(config(run=str(runs["stock"]), out=str(tmp_path / "out")))
    run, back = load_run(runs["stock"]), load_pipeline(tmp_path / "out")
    sampler = run.sampler(num_steps=4)
    images, again = run.sample(2, sampler=sampler), back.sample(2, sampler=sampler)
    assert (images.int() - again.int()).abs().max() <= 1


def test_the_last_line_is_the_folder(typed, runs, tmp_path):
    for words, pipeline in (([], "DDIMPipeline"), (["sampler=ddpm"], "DDPMPipeline")):
        code, out, err = typed("export", f"run={runs['stock']}", f"out={pipeline}", *words)
        assert code == 0, err
        assert out.strip().splitlines()[-1] == str(tmp_path / pipeline)
        index = json.loads((tmp_path / pipeline / "model_index.json").read_text())
        assert index["_class_name"] == pipeline

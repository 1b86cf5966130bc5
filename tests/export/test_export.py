"""Exported folders, sampled by a process that cannot import the project."""

import contextlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from diffusion_lab.commands.export import export
from diffusion_lab.config.schema import ExportConfig
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import (
    EDM,
    BlendSampler,
    DiffusersSampler,
    Epsilon,
    Flow,
    GuidedDenoiser,
    HeunSampler,
    Sample,
    Score,
    StraightPath,
    VESchedule,
    VPrediction,
    VPSchedule,
    sample_steps,
)
from diffusion_lab.export import export_pipeline
from diffusion_lab.modules import BasicUNetModule, DiffusionModule
from diffusion_lab.networks import MLP, BasicUNet, DiT, FastUNet, UNet2D
from tests.conftest import TINY_UNET

SHAPE = (1, 16, 16)
SHAPES = dict.fromkeys(("colour", "wide dit"), (3, 16, 24))
WIDE = {"in_channels": 3, "image_size": [16, 24]}


def unet2d(**options):
    return UNet2D(**{"image_size": 16} | TINY_UNET | options)


def fast(**options):
    return not_zero(FastUNet(image_size=16, width=8, depth=1, **options))


def dit(**options):
    return not_zero(DiT(**{"image_size": 16} | options, width=16, depth=2, heads=2))


def mlp(**options):
    return not_zero(MLP(in_channels=1, image_size=16, width=16, depth=1, **options))


def not_zero(network):
    """Randomise the layers that are zero at initialization, which would hide errors."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def ddim(num_steps=5, **options):
    return DiffusersSampler("DDIMScheduler", num_steps, clip_sample=True, **options)


def ddpm(num_steps=5):
    return DiffusersSampler("DDPMScheduler", num_steps, clip_sample=True)


def conditional(network, *parts):
    return DiffusionModule(network(num_classes=10), *parts, num_classes=10)


# name -> the pipeline's class
EXPECTED = {
    "ddpm epsilon": "DDPMPipeline",
    "ddpm sample": "DDPMPipeline",
    "ddpm v": "DDPMPipeline",
    "ddim epsilon": "DDIMPipeline",
    "ddim of 8 steps": "DDIMPipeline",
    "ddim eta": "DDIMPipeline",
    "blend on betas": "DDIMPipeline",
    "zero snr": "DDIMPipeline",
    "fast ddim eta": "DiffusionLabPipeline",
    "fast ddpm": "DiffusionLabPipeline",
    "tutorial": "DiffusionLabPipeline",
    "blind": "DiffusionLabPipeline",
    "flow": "DiffusionLabPipeline",
    "heun": "DiffusionLabPipeline",
    "edm": "DiffusionLabPipeline",
    "score": "DiffusionLabPipeline",
    "sigma score": "DiffusionLabPipeline",
    "classes": "DiffusionLabPipeline",
    "classes, flow": "DiffusionLabPipeline",
    "dit": "DiffusionLabPipeline",
    "wide dit": "DiffusionLabPipeline",
    "mlp": "DiffusionLabPipeline",
    "colour": "DDIMPipeline",
}


def cases():
    """Return name -> (module, sampler, value range)."""
    torch.manual_seed(0)
    vp, zero_snr = VPSchedule(), VPSchedule("scaled_linear", rescale_betas_zero_snr=True)
    line, edm, ladder = StraightPath(), VESchedule(), VESchedule(0.01, 2, spacing="geometric")
    basic = BasicUNet(image_size=16, channels=(4, 4))
    for parameter in basic.parameters():
        parameter.data *= 3  # untrained, it gives black images only
    both, unit, made = "minus_one_one", "zero_one", DiffusionModule
    return {
        "ddpm epsilon": (made(unet2d(), vp, Epsilon()), ddpm(), both),
        "ddpm sample": (made(unet2d(), vp, Sample()), ddpm(), both),
        "ddpm v": (made(unet2d(), vp, VPrediction()), ddpm(), both),
        "ddim epsilon": (made(unet2d(), vp, Epsilon()), ddim(), both),
        "ddim of 8 steps": (made(unet2d(), vp, VPrediction()), ddim(8), both),
        "ddim eta": (made(unet2d(), vp, VPrediction()), ddim(eta=0.7), both),
        "blend on betas": (made(unet2d(), vp, Sample()), BlendSampler(5), both),
        "zero snr": (made(unet2d(), zero_snr, VPrediction()), ddim(), both),
        "fast ddim eta": (made(fast(), vp, EDM()), ddim(eta=0.7), both),
        "fast ddpm": (made(fast(), vp, Flow()), ddpm(), both),
        "tutorial": (BasicUNetModule(basic), BlendSampler(5), unit),
        "blind": (BasicUNetModule(unet2d(use_time=False)), BlendSampler(5), unit),
        "flow": (made(fast(), line, Flow()), BlendSampler(5), both),
        "heun": (made(unet2d(), line, Flow()), HeunSampler(3), both),
        "edm": (made(fast(), edm, EDM()), HeunSampler(3), both),
        "score": (made(fast(), ladder, Score()), BlendSampler(5), both),
        "sigma score": (made(fast(), ladder, Score(True)), BlendSampler(5), both),
        "classes": (conditional(unet2d, vp, VPrediction()), ddim(), both),
        "classes, flow": (conditional(fast, line, Flow()), BlendSampler(5), both),
        "dit": (conditional(dit, line, Flow()), BlendSampler(5), both),
        "wide dit": (made(dit(positions="learned", **WIDE), vp, VPrediction()), ddim(), both),
        "mlp": (conditional(mlp, line, Flow()), HeunSampler(3), both),
        "colour": (made(unet2d(**WIDE), vp, VPrediction()), ddim(), both),
    }


DRAW = """
import contextlib, json, sys
import numpy as np

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "diffusion_lab":
            raise ImportError("diffusion_lab is blocked")

sys.meta_path.insert(0, Blocked())
with contextlib.suppress(ImportError):
    import diffusion_lab
    raise SystemExit("the project could be imported")

import torch
from diffusers import DiffusionPipeline

def generators():
    states = (np.random.SeedSequence((3, k)).generate_state(1, np.uint64)[0] for k in range(3))
    return [torch.Generator().manual_seed(int(state)) for state in states]

sampled, facts = {}, {}
for name, call in json.load(open("calls.json")).items():
    for route in ({}, {"custom_pipeline": name}) if "class_labels" in call else ({},):
        pipe = DiffusionPipeline.from_pretrained(name, trust_remote_code=True, **route)
        pipe.set_progress_bar_config(disable=True)
        sampled[name] = pipe(batch_size=3, generator=generators(), output_type="np", **call).images
    [image] = pipe(num_inference_steps=1).images
    facts[name] = [type(pipe).__name__, image.mode, list(image.size)]
for name, lines in json.load(open("lines.json")).items():
    scope = {}
    exec(lines, scope)
    facts[name] = [type(scope["pipe"]).__name__, scope["images"][0].mode, len(scope["images"])]
np.savez("sampled.npz", **sampled)
json.dump(facts, open("facts.json", "w"))
"""


def config(**settings):
    return OmegaConf.merge(OmegaConf.structured(ExportConfig), {"sampler": {}}, settings)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, runs):
    """Return samples of our samplers, of a process without the project, and its facts."""
    torch.set_num_threads(1)  # two threads wait for each other on a busy machine
    folder = tmp_path_factory.mktemp("exported")
    ours, calls = {}, {}
    for name, (module, sampler, values) in cases().items():
        module.eval()
        value_range = ValueRange(values)
        shape = SHAPES.get(name, SHAPE)
        exported = export_pipeline(module, folder / name, sampler, value_range, shape)
        assert exported.exact
        calls[name] = {"num_inference_steps": sampler.num_steps}
        if getattr(sampler, "eta", None) and exported.stock:
            calls[name]["eta"] = sampler.eta
        denoise = module.denoise
        if module.num_classes is not None:
            labels, schedule = torch.tensor([4, 7, 4]), module.noise_schedule
            calls[name] |= {"class_labels": [4, 7], "guidance_scale": 3.0}
            denoise = GuidedDenoiser(denoise, schedule, labels, null_label=10, guidance_scale=3.0)
        *_, last = sample_steps(
            denoise, module.noise_schedule, sampler, shape, num_images=3, seed=3
        )
        ours[name] = value_range.to_unit(last.x_next).permute(0, 2, 3, 1).numpy()
    lines = {}
    for name, run in runs.items():
        where = f"of {name}"
        with contextlib.chdir(folder):
            export(config(run=str(run), out=where))
        card = (folder / where / "README.md").read_text()
        [lines[where]] = re.findall("```python\n(.*?)```", card, re.DOTALL)
        assert lines[where].count("\n") == 3
    (folder / "calls.json").write_text(json.dumps(calls))
    (folder / "lines.json").write_text(json.dumps(lines))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-P", "-c", DRAW], cwd=folder, env=env, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    theirs = dict(np.load(folder / "sampled.npz"))
    return folder, ours, theirs, json.loads((folder / "facts.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_exported_pipelines_give_the_same_images(sampled, name):
    _, ours, theirs, facts = sampled
    # dividing epsilon by a small alpha amplifies float32's rounding of 1e-7
    tolerance = 2e-4 if "epsilon" in name else 5e-5
    mode, size = ("RGB", [24, 16]) if name in SHAPES else ("L", [16, 16])
    assert facts[name] == [EXPECTED[name], mode, size]
    assert ((ours[name] > 0) & (ours[name] < 1)).mean() > 0.1 and ours[name].std() > 0.01
    print(f"{name}: {np.abs(theirs[name] - ours[name]).max():.1e}")  # pytest -rP shows it
    np.testing.assert_allclose(theirs[name], ours[name], rtol=0, atol=tolerance)
    levels = [np.round(images * 255) for images in (theirs[name], ours[name])]
    assert np.abs(levels[0] - levels[1]).max() <= 1


@pytest.mark.slow
def test_the_folder_has_safetensors_and_only_the_code_it_needs(sampled):
    folder = sampled[0]
    for name, code in {
        "ddpm epsilon": [],
        "classes": ["pipeline.py"],
        "flow": ["pipeline.py", "unet/network.py"],
    }.items():
        files = {str(p.relative_to(folder / name)) for p in (folder / name).rglob("*.*")}
        assert sorted(f for f in files if f.endswith(".py")) == code
        assert not [f for f in files if f.endswith((".bin", ".pt", ".ckpt"))]
        unet = json.loads((folder / name / "unet" / "config.json").read_text())
        assert unet["in_channels"] == 1 and unet.get("out_channels", 1) == 1
    betas = json.loads((folder / "ddpm v" / "scheduler" / "scheduler_config.json").read_text())
    assert betas["prediction_type"] == "v_prediction" and len(betas["trained_betas"]) == 1000


@pytest.mark.slow
def test_the_code_of_the_model_card_loads_the_folder(sampled, runs):
    folder, _, _, facts = sampled
    assert facts["of stock"] == ["DDIMPipeline", "L", 8]
    assert facts["of conditional"] == ["DiffusionLabPipeline", "L", 10]
    card = (folder / "of stock" / "README.md").read_text()
    record = json.loads((runs["stock"] / "metrics.json").read_text())
    for words in (
        "license: apache-2.0",
        "library_name: diffusers",
        f"| val/loss | {record['metrics']['val/loss']:.4g} |",
        record["data"]["sha256"],
        "| steps | 2 |",
        "| noise_schedule | linear |",
        "of checkpoint last |",
        "sampler=ddim sampler.num_steps=2",
    ):
        assert words in card
    assert "trust_remote_code" not in card

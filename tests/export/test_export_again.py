"""An exported pipeline, loaded by diffusers and saved again, is complete."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.export import export_pipeline
from tests.export.test_export import SHAPE, cases

# code of two files, of another network, of one file, of none
NAMES = ("tutorial", "classes, flow", "classes", "ddim epsilon")
BEGIN = """
import json, sys
import numpy as np, torch
from diffusers import DiffusionPipeline

def load(folder, **route):
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **route)
    pipe.set_progress_bar_config(disable=True)
    return pipe

def images(pipe):
    return pipe(2, generator=torch.Generator().manual_seed(3), output_type="np").images
"""
SAVE = """
names = json.loads(sys.argv[1])
pipes = {"trusted/" + name: load(name) for name in names}
own = [name for name in names if name != "ddim epsilon"]
pipes |= {"custom/" + name: load(name, custom_pipeline=name) for name in own}
for name, pipe in pipes.items():  # when the files of all the others were loaded since
    pipe.save_pretrained("again/" + name, push_to_hub=False)
np.savez("before.npz", **{name: images(pipe) for name, pipe in pipes.items()})
"""
DRAW = """
before = np.load("before.npz")
np.savez("after.npz", **{name: images(load("again/" + name)) for name in before})
"""


def run(folder, home, code):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"HF_HOME": str(folder / home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", BEGIN + code, json.dumps(NAMES)]
    process = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_a_pipeline_saved_again_loads_again(tmp_path):
    """Loaded in both ways: with trust_remote_code alone, and with custom_pipeline as well."""
    made = cases()
    for name in NAMES:
        module, sampler, values = made[name]
        export_pipeline(module.eval(), tmp_path / name, sampler, ValueRange(values), SHAPE)
    run(tmp_path, "hf", SAVE)
    before = np.load(tmp_path / "before.npz")
    assert len(before) == 2 * len(NAMES) - 1
    for route_and_name in before:
        name = route_and_name.partition("/")[2]
        first, again = tmp_path / name, tmp_path / "again" / route_and_name
        files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
        assert sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file()) == files
        for file in files:
            if file.suffix == ".py":
                assert (again / file).read_text() == (first / file).read_text()
        index, copied = (json.loads((f / "model_index.json").read_text()) for f in (first, again))
        index.pop("_name_or_path", None), copied.pop("_name_or_path", None)
        assert copied == index
    for name in NAMES:
        shutil.rmtree(tmp_path / name)
    run(tmp_path, "another hf", DRAW)
    after = np.load(tmp_path / "after.npz")
    for name in before:
        assert np.array_equal(before[name], after[name])
        assert before[name].std() > 0

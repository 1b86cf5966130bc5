"""docs/extending.md: its files make a folder in which its commands run."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import last_line
from tests.support import forked
from tests.support.forked import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
[SHELL] = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
[TRUST] = re.findall(r"export DIFFUSION_LAB_TRUST=(\S+)", SHELL)
COMMANDS = [shlex.split(line)[1:] for line in SHELL.splitlines() if line.startswith("python ")]
SAMPLES = ("num_samples=70", "batch_size=70", "accelerator=cpu", "num_steps=2")
TINY = {
    "train": (
        "data.batch_size=20",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
        "trainer.log_every_n_steps=1",
        "trainer.accelerator=cpu",
        "sampler.num_steps=2",
        "callbacks.samples=null",
        "callbacks.figures=null",
    ),
    "sample": ("num_samples=2", "accelerator=cpu", "sampler.num_steps=2"),
    "evaluate": (*SAMPLES[:3], "sampler.num_steps=2", "seeds=2"),
    "tradeoff": SAMPLES,
    "compare": (),
    "export": (),
    "ladder": (*SAMPLES[:2], "seeds=1", "trainer.max_steps=2", "trainer.accelerator=cpu"),
}
MORE = {"teacher.run=logs/mine": ("teacher.num_pairs=120", "data.val_size=40")}


def write_files(folder: Path) -> Path:
    for name, content in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("work"))


def run(words, folder, **environment):
    """Run a command of the page, small."""
    name = Path(words[0]).stem
    more = [word for key, more in MORE.items() if key in words for word in more]
    set_here = {word.partition("=")[0] for word in TINY[name]}
    kept = [word for word in words[1:] if word.partition("=")[0] not in set_here]
    environment = {"CUDA_VISIBLE_DEVICES": "", **environment}
    return forked.run(name, *kept, *TINY[name], *more, cwd=folder, **environment)


@pytest.fixture(scope="module")
def mine(folder):
    """The run of the page's first command, which needs no trust: its parts are typed."""
    return last_line(run(COMMANDS[0], folder))


def test_the_page_has_a_file_and_an_option_of_every_kind():
    groups = {Path(name).parts[1] for name, _ in FILES if name.endswith(".yaml")}
    assert groups == {
        "network",
        "noise_schedule",
        "prediction",
        "weighting",
        "sampler",
        "data",
        "callbacks",
        "ladder",
    }
    modules = {Path(name).stem for name, _ in FILES if name.endswith(".py")}
    assert modules == set(TRUST.split(","))


def test_a_run_of_parts_of_ones_own_is_read_by_trust_alone(mine, folder):
    metrics = json.loads((mine / "metrics.json").read_text())
    assert metrics["status"] == "finished"
    assert metrics["data"]["dataset"] == "discs" and len(metrics["data"]["sha256"]) == 64
    assert metrics["data"]["note"] == "by my_data.discs"
    assert "train/noisy_half" in metrics["metrics"]

    sample = COMMANDS[1]
    refused = run(sample, folder)
    assert refused.returncode == 2
    assert "type trust=[my_" in refused.stderr and "DIFFUSION_LAB_TRUST" in refused.stderr
    by_option = last_line(run([*sample, f"trust=[{TRUST}]"], folder))
    by_variable = last_line(run(sample, folder, DIFFUSION_LAB_TRUST=TRUST))
    assert by_option != by_variable
    one, other = (np.load(out / "samples.npz")["images"] for out in (by_option, by_variable))
    assert np.array_equal(one, other)

    row = (str(folder / "row.png"), str(mine), "--num-samples", "2", "--num-steps", "1")
    untrusted = forked.run("gallery", *row, cwd=folder)
    assert untrusted.returncode == 2 and "trust" in untrusted.stderr
    named = [word for name in TRUST.split(",") for word in ("--trust", name)]
    assert last_line(forked.run("gallery", *row, *named, cwd=folder)).exists()


def test_an_untrusted_teacher_or_ladder_is_rejected_before_anything_is_trained(mine, folder):
    teacher = run(COMMANDS[-2], folder)
    assert teacher.returncode == 2 and "trust=[my_" in teacher.stderr
    ladder = run(COMMANDS[-1], folder)
    assert ladder.returncode == 2 and "trust=[my_" in ladder.stderr
    assert not any(folder.glob("logs/ladders/*/rung_*/*/checkpoints"))


@pytest.mark.slow
def test_the_rest_of_the_page_runs(mine, folder):
    for words in COMMANDS[1:]:
        last_line(run(words, folder, DIFFUSION_LAB_TRUST=TRUST))
    tradeoff = next((mine / "tradeoff").glob("*/tradeoff.json"))
    assert list(json.loads(tradeoff.read_text())["scores"]) == ["mine 2", "my_euler 2", "heun 2"]
    student = json.loads((folder / "logs" / "student" / "metrics.json").read_text())
    assert student["status"] == "finished" and student["data"]["num_val"] == 40
    ladder = next((folder / "logs" / "ladders").glob("*/ladder.json"))
    assert [rung["name"] for rung in json.loads(ladder.read_text())["rungs"]] == [
        "even",
        "truncated",
    ]
    # the exported folder stands alone: neither this project nor the user's folder is at hand
    code = (
        "import sys; sys.modules['diffusion_lab'] = None\n"
        "from diffusers import DiffusionPipeline\n"
        f"pipe = DiffusionPipeline.from_pretrained({str(folder / 'logs' / 'exported')!r}, "
        "trust_remote_code=True)\n"
        "print(pipe(batch_size=2, num_inference_steps=2, output_type='np').images.shape)"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd="/"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("(2, 28, 28")

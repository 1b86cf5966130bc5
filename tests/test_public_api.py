"""What `import diffusion_lab` gives: the names, their types, and no torch before it is needed."""

import inspect
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import diffusion_lab as dl

ROOT = Path(dl.__file__).parents[1]

USER_FILE = """
from pathlib import Path

import torch

import diffusion_lab as dl


def sixteen(folder: Path) -> torch.Tensor:
    run: dl.Run = dl.load_run(folder)
    module: dl.DiffusionModule = run.module
    schedule: dl.diffusion.NoiseSchedule = module.noise_schedule
    halfway: torch.Tensor = schedule.alpha(torch.tensor([0.5]))
    return run.sample(16, seed=0) * halfway


def trained(words: list[str]) -> dict[str, float]:
    result: dl.TrainResult = dl.train(dl.compose_config(words))
    data: dl.ImageDataModule = result.datamodule
    shape: tuple[int, int, int] = data.image_shape
    network = dl.networks.FastUNet(in_channels=shape[0], image_size=shape[1])
    dl.DiffusionModule(network, dl.diffusion.LinearSchedule(), dl.diffusion.Flow())
    encoded: torch.Tensor = dl.data.ValueRange("zero_one").encode(data.pixels("train"))
    dl.figures.save_grid(encoded, result.run_dir / "data.png", 4)
    return result.metrics
"""
WRONG = """
import diffusion_lab as dl

run = dl.load_run(3)
number: int = run.sample(16)
dl.networks.FastUnet()
"""


def test_dir_names_everything_public():
    assert set(dl.__all__) <= set(dir(dl))
    for name in dl.__all__:
        assert getattr(dl, name) is not None
    for package in (dl.networks, dl.data, dl.diffusion, dl.figures):
        public = set(package.__all__)
        assert public and public <= set(dir(package))
        for name in public:
            assert inspect.getmodule(getattr(package, name)) is not None, name


@pytest.mark.parametrize("where", [dl, dl.data])
def test_a_name_that_is_not_there_is_an_attribute_error(where):
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = where.nothing


def test_import_takes_no_torch():
    code = (
        "import sys, diffusion_lab as d; dir(d); print(sorted({'torch', 'hydra'} & {*sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


def test_the_package_says_that_it_has_types():
    assert resources.files("diffusion_lab").joinpath("py.typed").is_file()


@pytest.mark.slow  # mypy reads torch's types anew
def test_mypy_sees_the_types_in_a_users_file(tmp_path):
    (tmp_path / "right.py").write_text(USER_FILE)
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    command += ["--config-file=", f"--cache-dir={tmp_path / 'cache'}", "right.py", "wrong.py"]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(ROOT)},
    )
    lines = [line for line in result.stdout.splitlines() if ": error: " in line]
    assert [line.partition(": error")[0] for line in lines] == [
        "wrong.py:4",
        "wrong.py:5",
        "wrong.py:6",
    ], result.stdout
    assert '"load_run" has incompatible type "int"' in lines[0]
    assert "FastUNet" in lines[2]

"""Relative paths start at the folder of the command line; modules in it can be imported."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from diffusion_lab import compose_config
from diffusion_lab.cli.working_dir import paths_as_typed
from diffusion_lab.runs.checkpoint import read_checkpoint
from tests.cli.test_bad_input import assert_refused
from tests.config.test_options import blank_idx
from tests.conftest import RUN, TINY, last_line

SHORT = [*RUN, "trainer.max_epochs=1", "logger=[]"]
CHDIR = "hydra.job.chdir=true"
NET = """
from pathlib import Path
import torch
import my_parts  # beside it

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, time, labels=None):
        with open(my_parts.TIMES, "a") as file:
            print(*time.tolist(), sep="\\n", file=file)
        return self.conv(x)
"""


@pytest.mark.slow
@pytest.mark.parametrize("override", ["paths.data_dir=mine", "data.data_dir=mine"])
def test_a_relative_data_folder_with_hydra_job_chdir(override, command, tmp_path):
    from diffusion_lab.data.mnist.files import idx_files

    for file in idx_files("kmnist", tmp_path / "mine"):
        blank_idx(file.path, file.shape)
    words = [w for w in SHORT if not w.startswith(("data=", "data.num_images"))]
    words += ["data=kmnist", "data.source=full", "data.train_size=8", override, CHDIR]
    run = last_line(command("train", *words, "hydra.run.dir=run"))
    assert not (run / "mine").exists()
    content = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert content["data"]["source"] == "full"
    assert content["config"]["data"]["data_dir"] == str(tmp_path / "mine")
    # the run can be resumed
    last_line(command("train", f"resume={run.name}", "trainer.max_epochs=2", CHDIR))


@pytest.mark.parametrize("override", ["init_from=there", "teacher.run=there", "replay=there"])
def test_paths_of_a_training_start_at_the_folder_of_the_command(override, typed, tmp_path):
    (tmp_path / "there").mkdir()
    more = ["debug=replay"] if override.startswith("replay") else [*TINY, "model=ddpm"]
    code, _, err = typed("train", *more, override, CHDIR)
    assert code == 2
    assert f"{tmp_path}/there" in err


def test_paths_change_only_if_hydra_changed_the_folder(monkeypatch, tmp_path):
    cfg = OmegaConf.create(
        {
            "paths": {"data_dir": None, "log_dir": "~/logs"},
            "data": {"data_dir": "${paths.data_dir}", "path": "pics", "name": "my_set"},
            "init_from": "../a",
            "teacher": {"run": "/b"},
            "callbacks": {"fid": {"extractor": "mnist_v1"}},
        }
    )
    hydra = SimpleNamespace(runtime=SimpleNamespace(cwd=str(tmp_path)))
    monkeypatch.setattr("diffusion_lab.cli.working_dir.HydraConfig.get", lambda: hydra)
    monkeypatch.chdir(tmp_path)
    assert paths_as_typed(cfg.copy()) == cfg
    for folder in ("run", "my_set"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir("run")
    found = OmegaConf.to_container(paths_as_typed(cfg), resolve=True)
    assert found == {
        "paths": {"data_dir": f"{tmp_path}/data", "log_dir": str(Path("~/logs").expanduser())},
        "data": {
            "data_dir": f"{tmp_path}/data",
            "path": f"{tmp_path}/pics",
            "name": f"{tmp_path}/my_set",
        },
        "init_from": f"{tmp_path}/../a",
        "teacher": {"run": "/b"},
        "callbacks": {"fid": {"extractor": "mnist_v1"}},
    }


def test_the_other_commands_stay_in_the_folder_of_the_command(typed, tmp_path, runs):
    shutil.copytree(runs["conditional"], tmp_path / "run")
    words = ("run=run", "num_samples=2", "-m", "seed=1,2", "out=samples_${seed}", CHDIR)
    code, out, err = typed("sample", *words)
    assert code == 0, out + err
    assert (tmp_path / "samples_1" / "samples.npz").is_file()
    assert (tmp_path / "samples_2" / "samples.npz").is_file()


@pytest.fixture
def own(tmp_path):
    """A folder with the user's own network and its YAML file."""
    (tmp_path / "my_net.py").write_text(NET)
    (tmp_path / "my_parts.py").write_text(f"TIMES = {str(tmp_path / 'times')!r}")
    (tmp_path / "recipes" / "network").mkdir(parents=True)
    (tmp_path / "recipes" / "network" / "mine.yaml").write_text("_target_: my_net.Net\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("model", ["flow", "ddpm", "edm"])
def test_a_users_network_trains_and_gets_times_from_0_to_1000(own, model, command):
    words = [w for w in SHORT if not w.startswith(("network", "model"))]
    words += [f"model={model}", "--config-dir", "recipes", "network=mine", "hydra.run.dir=run"]
    run = last_line(command("train", *words))
    times = [float(line) for line in (own / "times").read_text().split()]
    assert min(times) >= 0 and 300 < max(times) <= 1000
    refused = command("sample", f"run={run}", "num_samples=2")
    assert_refused((refused.returncode, refused.stdout, refused.stderr), "trust=[my_net]")
    last_line(command("sample", f"run={run}", "num_samples=2", "trust=[my_net]"))
    last_line(command("train", f"resume={run}", "trainer.max_epochs=2", "trust=[my_net]"))


@pytest.mark.slow
def test_modules_of_the_folder_need_trust_and_do_not_shadow_installed_ones(own, command):
    (own / "torch.py").write_text("raise SystemExit('imported')")
    (own / "wandb.py").write_text("raise SystemExit('imported')")
    words = [*SHORT[:-1], "--config-dir", "recipes", "network=mine", "hydra.run.dir=run"]
    run = last_line(command("train", *(w for w in words if w != "network.width=8")))
    (own / "my_net.py").write_text("open('ran', 'w')")
    for name in ("sample", "evaluate"):
        assert command(name, f"run={run}").returncode == 2
    assert command("train", f"resume={run}", "trainer.max_epochs=2").returncode == 2
    assert not (own / "ran").exists()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("my_nett.Net", "there is no module my_nett: run the command from the folder that holds"),
        ("my_net.Nett", "my_net has no Nett"),
        ("broken.Net", "ModuleNotFoundError: No module named 'not_there_either'"),
        ("spelled.Net", "SyntaxError"),
        (".foo", "invalid dotstring"),
    ],
)
def test_a_class_that_cannot_be_imported_gives_one_line(own, target, expected, command):
    (own / "broken.py").write_text("import not_there_either")
    (own / "spelled.py").write_text("class :")
    result = command("train", *SHORT, f"network._target_={target}")
    assert_refused(
        (result.returncode, result.stdout, result.stderr), f"={target} cannot be used: ", expected
    )
    assert "\\n" not in result.stderr and "Error" not in result.stdout


def test_sys_path_of_this_process_is_unchanged():
    before = list(sys.path)
    compose_config()
    assert sys.path == before and torch.nn


def test_a_notebooks_own_hydra_stays_initialised(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        theirs = GlobalHydra.instance().hydra
        assert compose_config(["seed=3"]).seed == 3
        with pytest.raises(Exception, match="nothing is unknown"):
            compose_config(["nothing=3"])
        assert GlobalHydra.instance().hydra is theirs
        assert compose("mine") == {"a": 1}
    assert not GlobalHydra.instance().is_initialized()
    compose_config()
    assert not GlobalHydra.instance().is_initialized()

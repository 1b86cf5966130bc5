"""Run folders: a rejected start changes nothing, and the checkpoint's configuration counts."""

import json
import shutil

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from diffusion_lab import compose_config, train
from diffusion_lab.commands.compare.evaluated_runs import read_runs
from diffusion_lab.runs.saved_config import read_config
from diffusion_lab.training.rerun import compare_runs
from tests.cli.test_bad_input import assert_refused
from tests.conftest import RUN
from tests.support.evaluated_runs import evaluate

OTHER = ("prediction=v_prediction", "data.batch_size=2", "optimizer.lr=0.05")
GIVEN = {
    "typed": ["hydra.run.dir=logs/fx"],
    "an interpolation": ["hydra.run.dir=${paths.log_dir}/fx"],
    "another setting": ["+place=logs/fx", "hydra.run.dir=${place}"],
    "an experiment": ["--config-dir=mine", "experiment=mine"],
    "a sweep": ["-m", "hydra.sweep.dir=${paths.log_dir}", "hydra.sweep.subdir=fx", "seed=0"],
    "a nested sweep": [
        "-m",
        "hydra.sweep.dir=logs",
        "+place=x",
        "hydra.sweep.subdir=${place}/../fx",
    ],
}
SUBFOLDER = ["hydra.output_subdir=.hydra"]


def contents(folder):
    """Contents of every file but the lock, which any command holds for a moment."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture
def run(typed, tmp_path):
    """A finished run in logs/fx, and an experiment that names its folder."""
    code, _, err = typed("train", *RUN, "trainer.max_epochs=1", "hydra.run.dir=${paths.log_dir}/fx")
    assert code == 0, err
    mine = tmp_path / "mine" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\nhydra:\n  run:\n    dir: ${paths.log_dir}/fx\n")
    return tmp_path / "logs" / "fx"


@pytest.mark.parametrize(
    ("given", "more"),
    [
        *(pytest.param(given, [], marks=pytest.mark.slow) for given in GIVEN if given != "typed"),
        ("typed", []),
        ("typed", SUBFOLDER),
        pytest.param("a sweep", SUBFOLDER, marks=pytest.mark.slow),
    ],
)
def test_a_rejected_start_changes_nothing(run, typed, given, more):
    before = contents(run)
    code, _, err = typed("train", *GIVEN[given], *RUN, *OTHER, *more)
    assert code == 2
    assert "holds a run already" in err or "hydra.output_subdir" in err
    assert contents(run) == before


@pytest.mark.parametrize("early", [False, True], ids=["in the checks of the parts", "before"])
def test_a_rejected_start_leaves_no_folder(typed, tmp_path, early):
    mistake = ("seed=-1",) if early else ("model.num_classes=3",)
    assert typed("train", *RUN, *mistake)[0] == 2
    assert not any((tmp_path / "logs" / "runs").iterdir())
    mine = tmp_path / "mine"
    mine.mkdir()
    assert typed("train", *RUN, *mistake, "hydra.run.dir=mine")[0] == 2
    assert mine.is_dir()


def test_a_rejected_explanation_leaves_no_folder(typed, tmp_path):
    assert typed("explain", "data=fake", "model=basic_unet", "prediction=epsilon")[0] == 2
    assert not any((tmp_path / "logs" / "explained").iterdir())


@pytest.mark.parametrize("place", [".hydra", "conf", ".hydra/more"])
def test_the_configuration_has_one_place(typed, tmp_path, place):
    refused = typed("train", *RUN, "hydra.run.dir=fresh", f"hydra.output_subdir={place}")
    assert_refused(refused, f"hydra.output_subdir={place}", "leave out hydra.output_subdir=")
    assert not (tmp_path / "fresh" / place).exists()


@pytest.mark.parametrize("command", ["resume", "rerun"])
def test_a_saved_run_is_not_written_over_by_its_own_command(run, typed, command):
    before = contents(run)
    words = ("trainer.max_epochs=2", "hydra.output_subdir=.hydra")
    code, _, err = typed("train", f"{command}={run}", *words)
    assert code == 2 and "hydra.output_subdir=.hydra" in err
    assert contents(run) == before
    code, _, err = typed(
        "train", f"resume={run}", "trainer.max_epochs=2", "hydra.run.dir=elsewhere"
    )
    assert code == 2 and "hydra.run.dir=elsewhere" in err
    assert not (run.parent.parent / "elsewhere").exists()


@pytest.mark.slow
def test_explain_does_not_change_a_run(run, typed):
    before = contents(run)
    assert_refused(typed("explain", f"hydra.run.dir={run}"), "holds a run already")
    assert contents(run) == before


@pytest.mark.slow
def test_a_job_requeued_by_slurm_keeps_its_configuration(run, typed, monkeypatch):
    """Lightning loads such a file by itself, whatever the overrides are."""
    for name in ("NTASKS", "JOB_ID", "PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "1" if name in ("NTASKS", "JOB_ID") else "0")
    record = json.loads((run / "metrics.json").read_text()) | {"status": "interrupted"}
    (run / "metrics.json").write_text(json.dumps(record))
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "hpc_ckpt_1.ckpt")
    before = contents(run)
    place = "hydra.run.dir=${paths.log_dir}/fx"
    refused = typed("train", *RUN, *OTHER, place)
    assert_refused(refused, "hpc_ckpt_1.ckpt", "data.batch_size", "repeat the overrides")
    assert contents(run) == before
    code, _, err = typed("train", *RUN, "trainer.max_epochs=2", place)
    assert code == 0, err
    assert json.loads((run / "metrics.json").read_text())["status"] == "finished"


def falsify(run, change):
    path = run / ".hydra" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def another(config):
    config["prediction"] = {"_target_": "diffusion_lab.diffusion.VPrediction"}
    config["data"]["batch_size"] = 2
    config["optimizer"]["lr"] = 0.05
    config["callbacks"].pop("ema")


@pytest.fixture
def half(tmp_path):
    """Trained where it lies: the configuration of a copy names the folder of before."""
    train(compose_config([*RUN, "trainer.max_epochs=1"], tmp_path / "half"))
    record = tmp_path / "half" / "metrics.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    return tmp_path / "half"


def test_resume_uses_the_checkpoints_configuration(half, whole, typed):
    falsify(half, another)
    code, out, err = typed("train", f"resume={half}", "trainer.max_epochs=2")
    assert code == 0, err
    [line] = [line for line in out.splitlines() if "using the checkpoint" in line]
    for key in ("prediction", "data.batch_size", "optimizer.lr", "callbacks.ema"):
        assert key in line
    assert compare_runs(half, whole) == []
    state = torch.load(half / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["config"]["data"]["batch_size"] == 4


def test_rerun_uses_the_checkpoints_configuration(half, typed):
    falsify(half, another)
    code, out, err = typed("train", f"rerun={half}")
    assert code == 0, err
    assert "bit for bit" in out and "using the checkpoint" in out


def test_compare_uses_the_checkpoints_configuration(half, caplog):
    falsify(half, another)
    evaluate(half, [1.0])
    config = read_runs([half])[0].config
    assert config["data"]["batch_size"] == 4 and "ema" in config["callbacks"]
    assert "using the checkpoint" in caplog.text


@pytest.mark.slow
def test_resume_needs_no_configuration_file(half, whole, typed):
    shutil.rmtree(half / ".hydra")
    code, _, err = typed("train", f"resume={half}", "trainer.max_epochs=2")
    assert code == 0, err
    assert compare_runs(half, whole) == []


def test_a_configuration_file_that_agrees_gives_no_note(half):
    saved = read_config(half)
    assert saved.notes == []
    assert OmegaConf.to_yaml(saved.config.callbacks) == OmegaConf.to_yaml(
        OmegaConf.load(half / ".hydra" / "config.yaml").callbacks
    )


@pytest.mark.slow
def test_a_raised_limit_is_kept_without_a_note(half, typed):
    """An interrupted run whose limit was raised to four epochs keeps that limit."""
    code, _, err = typed("train", f"resume={half}", "trainer.max_epochs=4")
    assert code == 0, err
    record = half / "metrics.json"
    record.write_text(record.read_text().replace('"finished"', '"interrupted"'))
    saved = read_config(half)
    assert saved.config.trainer.max_epochs == 4 and saved.notes == []


def test_a_run_started_again_in_python_records_the_last_start(tmp_path):
    """A failed run leaves its folder free; the file is not that of the first start."""
    for rate in (0.1, 0.2):
        shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)
        record = tmp_path / "run" / "metrics.json"
        if record.exists():
            content = json.loads(record.read_text())
            record.write_text(json.dumps(content | {"status": "failed"}))
        words = [*RUN, "trainer.max_epochs=1", f"optimizer.lr={rate}"]
        train(compose_config(words, tmp_path / "run"))
    assert OmegaConf.load(tmp_path / "run" / ".hydra" / "config.yaml").optimizer.lr == 0.2


@pytest.mark.slow
@pytest.mark.parametrize("status", ["running", "interrupted", "diverged"])
def test_a_run_without_a_checkpoint_does_not_become_another_one(tmp_path, typed, status):
    folder = tmp_path / "begun"
    code, _, err = typed("train", *RUN, f"hydra.run.dir={folder}")
    assert code == 0, err
    shutil.rmtree(folder / "checkpoints")
    record = json.loads((folder / "metrics.json").read_text()) | {"status": status}
    (folder / "metrics.json").write_text(json.dumps(record))
    before = contents(folder)
    assert_refused(typed("train", *RUN, "optimizer.lr=0.5", f"hydra.run.dir={folder}"), str(folder))
    assert contents(folder) == before
    code, _, err = typed("train", *RUN, f"hydra.run.dir={folder}")
    assert (code == 0) == (status != "diverged"), err  # the same overrides start it again


@pytest.mark.slow
def test_a_sweep_and_a_run_cannot_share_a_folder(tmp_path, typed):
    run, sweep = tmp_path / "run", tmp_path / "sweep"
    assert typed("train", *RUN, f"hydra.run.dir={run}")[0] == 0
    code, _, err = typed("train", *RUN, "-m", "seed=1,2", f"hydra.sweep.dir={run}")
    assert code == 2 and "holds a run" in err
    assert not (run / "multirun.yaml").exists()
    assert typed("train", *RUN, "-m", "seed=1", f"hydra.sweep.dir={sweep}")[0] == 0
    code, _, err = typed("train", *RUN, f"hydra.run.dir={sweep}")
    assert code == 2 and "holds a sweep" in err
    assert_refused(typed("train", f"resume={sweep}"), "is a sweep", f"resume={sweep}/0")


@pytest.mark.slow
def test_outside_slurm_a_requeued_run_is_not_trained_again(tmp_path, typed):
    folder = tmp_path / "turn"
    assert typed("train", *RUN, f"hydra.run.dir={folder}")[0] == 0
    shutil.copy(folder / "checkpoints" / "last.ckpt", folder / "hpc_ckpt_1.ckpt")
    before = contents(folder)
    assert_refused(typed("train", *RUN, f"hydra.run.dir={folder}"), "holds a run already")
    assert contents(folder) == before

"""Bad input gives one clear line and exit code 2, without any training."""

import pytest

from diffusion_lab.cli.errors import as_started
from tests.conftest import TINY


def assert_refused(result, *words):
    code, out, err = result
    assert code == 2, out + err
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert "epoch 0" not in out


MISTAKES = [
    (["trainer.accelerator=gpu"], ["gpu", "trainer.accelerator=cpu"]),
    (["trainer.accelerator=warp"], ["trainer.accelerator", "warp"]),
    (["model=stylegan"], ["model=stylegan", "basic_unet", "ddpm", "unet2d"]),
    (["noise_schedule=square"], ["cosine", "sigmoid"]),
    (["logger=null"], ["a group is null", "logger=[]"]),
    (["nothing=1"], ["nothing is unknown", "seed", "model"]),
    (["data.batchsize=1"], ["data.batchsize is unknown", "batch_size"]),
    (["trainer.epochs=1"], ["trainer.epochs is unknown", "max_epochs"]),
    (["+optimizer.momentum=1"], ["optimizer.momentum is unknown", "Adam", "lr"]),
    (["data.batch_size=0"], ["data.batch_size=0", "at least 1"]),
    (["data.batch_size=many"], ["data.batch_size", "many"]),
    (
        ["model=ddpm", "noise_schedule.num_train_timesteps=20"],
        ["num_train_timesteps=20", "below 1", "above 20", "cosine"],
    ),
    (["model=ddpm", "noise_schedule.beta_timesteps=0"], ["beta_timesteps=0"]),
    (["trainer.max_epochs=many"], ["trainer.max_epochs=many"]),
    (["optimizer.lr=fast"], ["optimizer.lr=fast"]),
    (["optimizer.lr=-1"], ["learning rate"]),
    (["optimizer.lr=nan"], ["optimizer.lr=nan: expected a finite number"]),
    (["optimizer=muon", "optimizer.lr=inf"], ["optimizer.lr=inf: expected a finite number"]),
    (["data.clusters=-3"], ["data.clusters=-3: expected a whole number, at least 2"]),
    (["paths.data_dir=a=b"], ["paths.data_dir=a=b is not", "\"paths.data_dir='a=b'\""]),
    (["trainer.precision=8-bit"], ["trainer: Precision", "bf16-mixed"]),
    (["data.image_size=30"], ["data.image_size=30", "multiple of 4"]),
    (["model=unet2d", "data.image_size=30"], ["data.image_size=32"]),
    (["model=unet2d", "network.block_out_channels=[32,60,64]"], ["GroupNorm", "60"]),
    (
        ["model=ddpm", "noise_schedule=blend_uniform"],
        ["made from betas", "noise_schedule=linear"],
    ),
    (["model=ddpm", "sampler.num_steps=2000"], ["1000 timesteps"]),
    (["sampler=ddpm"], ["sampler=blend", "uniform"]),
    (["+resume=last"], ["resume is unknown", "seed"]),
    (["monitor=val/nosuch"], ["monitor=val/nosuch", "val/loss"]),
    (["callbacks=early_stopping", "monitor=fid"], ["monitor=fid", "val/loss"]),
    (["network.channels=[0,0,0]"], ["network.channels=[0, 0, 0]"]),
    (["data.channels=0"], ["data.channels=0"]),
    (["trainer.max_epochs=0"], ["trainer.max_epochs=0"]),
    (["trainer.devices=0"], ["trainer: ", "devices=0"]),
    (["trainer.max_time=40"], ["trainer.max_time=40", "00:00:02:00"]),
    (["trainer.max_time=1.5"], ["trainer.max_time=1.5", "days:hours:minutes:seconds"]),
    (["trainer.max_time=00:00:40"], ["trainer.max_time=00:00:40", "two digits each"]),
    (["trainer.max_time={weeks_: 1}"], ["days:hours:minutes:seconds"]),
    (["trainer.max_time=00:00:00:00"], ["trainer.max_time=00:00:00:00", "no time to train"]),
    (["trainer.gradient_clip_val=-1"], ["gradient_clip_val=-1", "null for no clipping"]),
    (
        ["lr_scheduler=cosine", "trainer.max_epochs=-1"],
        ["no limit is set", "trainer.max_time=", "lr_scheduler=none"],
    ),
    (
        ["experiment=quickstart_classes", "trainer.max_epochs=-1", "trainer.max_time=null"],
        ["no limit is set"],
    ),
    (["prediction=epsilon"], ["prediction=epsilon", "prediction=sample"]),
    (["data.value_range=percent"], ["zero_one"]),
    (["data.val_size=0"], ["monitor=val/loss", "train/loss_epoch", "data.val_size=0"]),
    (["data.val_size=9999"], ["val_size"]),
    (["lr_scheduler=cosine", "lr_scheduler.warmup=2"], ["warmup"]),
    (["model=edm", "noise_schedule.sigma_min=90"], ["sigma_min < sigma_max"]),
    (["model=flow", "sampler=langevin", "sampler.sigma_min=60"], ["sigma_min < sigma_max"]),
    (["model=flow", "sampler=langevin", "sampler.num_steps=7"], ["multiple of"]),
    (["model=ddpm", "noise_schedule=zero_snr"], ["prediction=epsilon", "v_prediction"]),
    (["seed=-1"], ["seed"]),
    (["data.clusters=4"], ["data.clusters=4", "is unconditional"]),
    (["callbacks.samples.every_n_epochs=0"], ["every_n_epochs"]),
    (["callbacks.samples.num_samples=0"], ["num_samples"]),
]
BUILT = ("model", "experiment", "network", "callbacks", "lr_scheduler", "data.value", "monitor")
"""Overrides of parts that are built before the mistake is found, which takes longer."""


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        pytest.param(
            overrides,
            words,
            marks=pytest.mark.slow if overrides[0].startswith(BUILT) else (),
            id=" ".join(overrides),
        )
        for overrides, words in MISTAKES
    ],
)
def test_train_rejects_bad_input(typed, overrides, words):
    assert_refused(typed("train", *TINY, *overrides), *words)


def test_explain_rejects_the_same_settings_as_train(typed):
    assert_refused(typed("explain", *TINY, "data.batch_size=-1"), "data.batch_size=-1")


def test_an_unknown_key_in_a_yaml_file_is_an_error(typed, tmp_path):
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "typo.yaml").write_text("# @package _global_\ndata:\n  batchsize: 3\n")
    (folder / "top.yaml").write_text("# @package _global_\nseeed: 3\n")
    (folder / "arg.yaml").write_text("# @package _global_\nnetwork:\n  chanels: [8]\n")
    where = ("--config-dir", str(tmp_path / "mine"))
    assert_refused(typed("train", *where, "experiment=typo"), "data.batchsize", "batch_size")
    assert_refused(typed("train", *where, "experiment=top"), "seeed", "seed")
    assert_refused(typed("train", *where, *TINY, "experiment=arg"), "network.chanels", "channels")


def test_a_damaged_data_file_is_named_and_not_changed(typed, tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    file = raw / "train-images-idx3-ubyte"
    file.write_bytes(b"\x00\x00\x08\x03 too short")
    assert_refused(
        typed("train", "data.source=full", "paths.data_dir=data"),
        "train-images-idx3-ubyte",
        "truncated",
    )
    assert file.read_bytes() == b"\x00\x00\x08\x03 too short"


def test_a_data_folder_that_cannot_be_written(typed, tmp_path):
    (tmp_path / "data").write_text("a file in place of the folder")
    assert_refused(typed("train", "data.source=full", "paths.data_dir=data"), "data")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["expected one of run= and pipeline=", "run=logs/runs/<name>"]),
        (["run=nowhere"], ["run=nowhere is no folder"]),
        (["run=."], ["no checkpoints/last.ckpt"]),
        (["run={run}", "checkpoint=first"], ["best or last"]),
        (["run={run}", "sampler=ddpm"], ["sampler=blend"]),
        (
            ["run={run}", "sampler=dpm_solver", "+sampler.num_train_timesteps=500"],
            ["num_train_timesteps=500", "noise schedule", "leave out"],
        ),
        (["run={run}", "sampler=ddpm", "+sampler.variance_type=learned"], ["fixed_large"]),
        (["run={run}", "sampler=ddpm", "+sampler.variance_type=fixed_large_log"], ["fixed_large"]),
        (["run={run}", "sampler=dpm_solver", "sampler.solver_order=4"], ["from 1 to 3"]),
        (["run={run}", "sampler=flow_euler", "+sampler.stochastic_sampling=true"], ["reverse_sde"]),
        (["run="], ["expected one of run= and pipeline=", "run=logs/runs/<name>"]),
        (["run={run}", "model=ddpm"], ["model"]),
        (["run={run}", "sampler=ddim", "sampler.eta=-3"], ["from 0 to 1"]),
        (["run={run}", "out=/proc/nowhere"], ["out=/proc/nowhere"]),
        (["run={run}", "sampler=flow_euler", "sampler.timestep_spacing=leading"], ["itself"]),
        (["run={run}", "sampler=ddim", "sampler.timestep_spacing=even"], ["trailing"]),
        (["run={run}", "sampler=ddim", "sampler.num_steps=1001"], ["1000 timesteps"]),
        (["run={run}", "sampler=heun", "sampler.eta=1"], ["eta"]),
        (["run={run}", "sampler=nothing"], ["blend", "ddim"]),
        (["run={run}", "num_samples=0"], ["num_samples=0"]),
        (["run={run}", "batch_size=0"], ["batch_size=0"]),
        (["run={run}", "sampler.num_steps=0"], ["num_steps=0"]),
        (["run={run}", "sampler=heun", "sampler.num_steps=null"], ["num_steps=null", "at least 1"]),
        (["run={run}", "sampler.eta=1"], ["eta"]),
        (["run={run}", "accelerator=gpu"], ["accelerator=gpu"]),
        (["run={run}", "trajectory_steps=x"], ["trajectory_steps"]),
        (["run={run}", "seed=-1"], ["seed=-1"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_sample_rejects_bad_input(typed, trained, arguments, words):
    arguments = [a.format(run=trained["basic_unet"]) for a in arguments]
    before = list(trained["basic_unet"].rglob("*"))
    assert_refused(typed("sample", *arguments), *words)
    assert list(trained["basic_unet"].rglob("*")) == before


def test_a_damaged_or_malicious_checkpoint_is_rejected(typed, tmp_path):
    import torch

    class Evil:
        def __reduce__(self):
            return (print, ("PAYLOAD",))

    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"PK broken")
    assert_refused(typed("sample", f"run={tmp_path / 'run'}"), "last.ckpt", "damaged")
    torch.save({"config": Evil(), "state_dict": {}}, folder / "last.ckpt")
    result = typed("sample", f"run={tmp_path / 'run'}")
    assert_refused(result, "last.ckpt")
    assert "PAYLOAD" not in result[1]


@pytest.mark.parametrize("command", ["benchmark", "compare", "sample", "ladder"])
def test_hydra_run_dir_is_an_option_of_train_only(command, typed, tmp_path):
    result = typed(command, "hydra.run.dir=here")
    assert_refused(result, "hydra.run.dir=here", "type out=here")
    assert not (tmp_path / "here").exists()


def test_an_installed_command_names_installed_commands(monkeypatch):
    line = "train one by python scripts/train_extractor.py, or see sample.py and my_net.py"
    monkeypatch.setattr("sys.argv", ["/opt/bin/diffusion-lab-train"])
    assert as_started(line) == (
        "train one by diffusion-lab-train-extractor, or see diffusion-lab-sample and my_net.py"
    )
    monkeypatch.setattr("sys.argv", ["scripts/train.py"])
    assert as_started(line) == line

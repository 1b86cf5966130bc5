"""Every experiment and every option of every group composes, instantiates and trains two steps."""

import json
from pathlib import Path

import pytest
import torch

from diffusion_lab import compose_config, train
from diffusion_lab.data.mnist.files import idx_files
from tests.conftest import PICTURED, TINY, TINY_UNET_WORDS
from tests.support.forked import ROOT

CONFIGS = ROOT / "configs"


def options(group):
    return sorted(p.stem for p in (CONFIGS / group).glob("*.yaml"))


TINY_CIFAR = [
    "data.channels=3",
    "data.image_size=32",
    "network.block_out_channels=[8,8,8,8]",
    "network.layers_per_block=1",
    "network.norm_num_groups=4",
    "network.attention_head_dim=8",
]
# what has to stand beside an option for it to make sense or to stay small
ON_A_GPU = [*TINY_CIFAR, "trainer.compile=false", "trainer.check_val_every_n_epoch=1"]
BESIDE = {
    "experiment=cifar10": ON_A_GPU,
    "experiment=cifar10_hour": ON_A_GPU,
    "network=unet_cifar": TINY_CIFAR,
    "network=unet_cifar_small": TINY_CIFAR,
    "network=dit": ["network.width=16", "network.depth=1"],
    "network=mlp": ["network.width=16", "network.depth=1"],
    "sampler=heun_discrete": ["sampler.num_steps=12"],  # fewer leave noise on this path
    "sampler=langevin": ["sampler.steps_per_level=1"],
    "noise_schedule=zero_snr": ["prediction=v_prediction"],
    "debug=overfit": ["trainer.max_epochs=2"],
    "logger=wandb": ["logger.wandb.offline=true"],
    "experiment=smoke": ["data.train_size=null"],
    "experiment=ddpm_mnist": ["trainer.max_epochs=1"],
    "experiment=quickstart": ["data.clusters=4"],
    "experiment=fast": ["data.clusters=4"],
    "experiment=images_small": ["data.clusters=4"],
    "experiment=best_cpu": ["data.clusters=4"],
    "data=mnist": ["data.source=bundled"],
    "callbacks=fid": [
        "data=mnist",
        "data.source=bundled",
        "data.num_images=null",
        "callbacks.fid.num_samples=100",
    ],
}
# the fast network does for UNet2DModel wherever the network is not what is tried
FAST = "network=unet_fast"
ALONE = [
    f"{group}={option}"
    for group in ("network", "callbacks", "model", "debug", "experiment")
    for option in options(group)
    if option
    not in ("replay", "one_step")  # callbacks/test_anomaly.py and training/test_reflow.py have them
]
SMALL_UNET = ("model=ddpm", "model=unet2d", "experiment=ddpm_mnist", "experiment=notebook_unet2d")
"""Their network in its own size is that of network=unet2d."""
PAIRS = {
    "blend": "blend_uniform",
    "ddim": "cosine",
    "ddpm": "linear",
    "deis": "scaled_linear",
    "dpm_solver": "sigmoid",
    "dpm_solver_sde": "geometric",
    "edm_dpm_solver": "edm",
    "euler": "sigmoid_jabri",
    "euler_ancestral": "zero_snr",
    "flow_euler": "blend_gaussian",
}
"""A noise schedule that a sampler can walk; the other samplers walk that of model=flow."""
RIDERS = (
    "weighting",
    "time_sampling",
    "pairing",
    "augment",
    "optimizer",
    "lr_scheduler",
    "logger",
)


def together():
    """Trainings of several options each: a sampler, a noise schedule, and one of each rider."""
    for number, sampler in enumerate(options("sampler")):
        schedule = PAIRS.get(sampler)
        path = f"noise_schedule={schedule}" if schedule else "model=flow"
        left = [(group, options(group)[number:]) for group in RIDERS]
        yield [f"sampler={sampler}", path, *(f"{group}={rest[0]}" for group, rest in left if rest)]


TOGETHER = list(together())
PREDICTIONS = [f"prediction={name}" for name in options("prediction")]
"""tools/test_combinations.py trains each."""
OPTIONS = [*ALONE, *PREDICTIONS, *(word for words in TOGETHER for word in words)]


# what the pictures at the end depend on
DRAWN = tuple(
    f"{group}="
    for group in (
        "model",
        "network",
        "noise_schedule",
        "prediction",
        "sampler",
        "experiment",
        "data",
        "trainer.precision",
    )
)


def train_tiny(tmp_path, *overrides):
    pictured = any(word.startswith(DRAWN) for word in overrides if word != FAST)
    tiny = PICTURED if pictured else TINY
    if {"callbacks=minimal", "callbacks=none"} & {*overrides}:  # there are none to leave out
        tiny = TINY[:-2]
    cfg = compose_config([*tiny, f"paths.log_dir={tmp_path}", *overrides], tmp_path / "run")
    return train(cfg)


def trains(tmp_path, monkeypatch, *words):
    """Two steps with finite losses, whatever has to stand beside the words."""
    for package in ("wandb", "mlflow"):
        if f"logger={package}" in words:
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    beside = [] if words[0].startswith(("network", "model", "experiment")) else [FAST]
    beside += TINY_UNET_WORDS if words[0] in SMALL_UNET else []
    beside += [more for word in words for more in BESIDE.get(word, [])]
    result = train_tiny(tmp_path, *words, *beside)
    assert result.trainer.global_step == {"debug=fast_dev_run": 1, "debug=overfit": 6}.get(
        words[0], 2
    )
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["status"] == "finished"
    assert torch.isfinite(torch.tensor(record["metrics"]["train/loss"]))


QUICK = 2  # of the sets of options, which bring two or more of every group that rides along
LONG = (
    "experiment",
    "callbacks=fid",
    "network=unet2d",
    "network=unet_cifar",
    "logger=mlflow",
    "debug",
    "network=unet_fast_wide",
    "network=dit",
    "callbacks=loss",
    "callbacks=snap",
    "callbacks=post",
)


LIKE_ANOTHER = (
    "experiment=best_cpu",
    "experiment=best_cpu_classes",
    "experiment=fast",
    "experiment=fashion",
    "experiment=cifar10_hour",
    "network=unet_cifar_small",
)
"""Other sizes of what is tried."""


def slow_if_long(words):
    marks = [pytest.mark.slow] * any(word.startswith(LONG) for word in words)
    marks += [pytest.mark.exhaustive] * any(word in LIKE_ANOTHER for word in words)
    return pytest.param(words, marks=marks, id=" ".join(words))


@pytest.mark.parametrize("option", map(slow_if_long, ([word] for word in ALONE)))
def test_option_trains_two_steps(option, tmp_path, monkeypatch):
    trains(tmp_path, monkeypatch, *option)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, marks=() if k < QUICK else pytest.mark.slow, id=" ".join(words))
        for k, words in enumerate(TOGETHER)
    ],
)
def test_options_train_two_steps_together(words, tmp_path, monkeypatch):
    trains(tmp_path, monkeypatch, *words)


def test_every_option_is_tried():
    tried = {word for word in OPTIONS if not word.startswith("model=")}
    groups = ("sampler", "noise_schedule", *RIDERS)
    assert tried >= {f"{group}={option}" for group in groups for option in options(group)}


ELSEWHERE = ("cifar10", "cifar100", "svhn", "images", "npz", "hf", "points")
"""data/sources, cli/test_pictures.py and training/test_points.py have them."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "fake" else pytest.mark.slow)
        for name in options("data")
        if name not in ELSEWHERE
    ],
)
def test_data_set_trains_two_steps(name, tmp_path):
    extra = [f"data={name}", "data.num_images=null", "data.val_size=100"]
    if name == "mnist":
        extra.append("data.source=bundled")
    elif name != "fake":  # blank images of the published sizes, as sparse files
        extra.append("data.source=full")
        for file in idx_files(name, tmp_path / "data"):
            blank_idx(file.path, file.shape)
    result = train_tiny(tmp_path, *extra, f"paths.data_dir={tmp_path / 'data'}")
    assert result.trainer.global_step == 2
    assert result.datamodule.provenance["dataset"] == name


def blank_idx(path: Path, shape: tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + torch.Size(shape).numel())


def test_every_group_is_covered():
    groups = {p.name for p in CONFIGS.iterdir() if p.is_dir()}
    covered = {option.partition("=")[0] for option in OPTIONS} | {"data"}
    # commands/edit and commands/ladder have theirs
    assert groups - covered == {"edit", "hydra", "ladder", "paths", "trainer"}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions_train_and_sample(precision, tmp_path):
    result = train_tiny(tmp_path, f"trainer.precision={precision}", "model=flow")
    assert result.trainer.global_step == 2
    assert (result.run_dir / "figures" / "samples.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("callback", ["samples", "figures", "learning_rate", "progress", "best"])
def test_a_callback_can_be_switched_off(callback, tmp_path):
    overrides = [*(PICTURED if callback == "figures" else TINY), f"callbacks.{callback}=null"]
    result = train(compose_config(overrides, tmp_path))
    assert result.trainer.global_step == 2
    if callback == "figures":
        assert not (tmp_path / "figures" / "data.png").exists()


def test_the_experiment_beats_the_model_and_the_command_line_the_experiment():
    cfg = compose_config(
        ["experiment=notebook_basic_unet", "model=ddpm", "sampler=ddpm", "trainer.max_epochs=9"]
    )
    assert cfg.model._target_.endswith("DDPMModule")
    assert cfg.sampler.scheduler == "DDPMScheduler"
    assert cfg.trainer.max_epochs == 9
    assert cfg.data.val_size == 0
    assert compose_config(["model=ddpm", "noise_schedule=cosine"]).noise_schedule.beta_schedule == (
        "squaredcos_cap_v2"
    )
    assert compose_config(["experiment=quickstart", "data.value_range=zero_one"]).data[
        "value_range"
    ] == ("zero_one")

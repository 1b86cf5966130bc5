"""Contents of the logs, read from a TensorBoard server and from local W&B and MLflow runs."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.parse import quote

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusion_lab import compose_config, train
from tests.conftest import PICTURED, RUN, TINY


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logged") / "runs" / "one"
    overrides = [*PICTURED, "trainer.max_epochs=3", "lr_scheduler=cosine"]
    train(compose_config(overrides, folder))
    return folder


@pytest.fixture(scope="module")
def tensorboard(logged):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logged.parent)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ask(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/data/{path}", data, {"Content-Type": "application/json"}
        )
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(request) as answer:
                    content = json.load(answer)
                if content or time.monotonic() > deadline:
                    return content
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
            time.sleep(0.5)

    yield ask
    process.terminate()
    process.wait(30)


@pytest.mark.slow
def test_a_real_tensorboard_shows_the_loss_curve(tensorboard, logged):
    tags = tensorboard("plugin/scalars/tags")["one"]
    assert set(tags) >= {"train/loss", "train/loss_epoch", "val/loss", "lr", "images_per_second"}
    curve = tensorboard("plugin/scalars/scalars?run=one&tag=train%2Floss")
    steps = [step for _, step, _ in curve]
    values = [value for *_, value in curve]
    assert steps == list(range(6))
    expected = [
        float(line.split(",")[1]) for line in (logged / "losses.csv").open().readlines()[1:]
    ]
    assert values == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_real_tensorboard_shows_the_figures_and_the_config(tensorboard):
    tags = set(tensorboard("plugin/images/tags")["one"])
    names = ("data", "corruption", "predictions", "trajectory", "samples", "loss_curve")
    assert tags >= {"samples", *(f"figures/{name}" for name in names)}
    grids = tensorboard(f"plugin/images/images?run=one&tag={quote('samples')}&sample=0")
    assert [grid["step"] for grid in grids] == [1, 3, 5]
    text = tensorboard("plugin/text/text?run=one&tag=config%2Ftext_summary")
    assert "BasicUNetModule" in text[0]["text"]


def test_a_real_tensorboard_fills_the_hparams_tab(tensorboard):
    query = {"experimentName": "", "startIndex": 0, "sliceSize": 9, "colParams": []}
    query["allowedStatuses"] = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"]
    [group] = tensorboard("plugin/hparams/session_groups", query)["sessionGroups"]
    assert group["hparams"]["network"] == "basic_unet"
    assert group["hparams"]["optimizer/lr"] == 0.001
    metrics = {m["name"]["tag"]: m["value"] for m in group["metricValues"]}
    assert 0 < metrics["final/val/loss"] < 1
    assert not any(name.startswith("callbacks") for name in group["hparams"])


def test_validation_noise_is_fixed(tmp_path):
    """With a learning rate of 0 the validation loss is the same in every epoch."""
    overrides = [*TINY, "trainer.max_epochs=3", "optimizer.lr=0.0"]
    train(compose_config(overrides, tmp_path))
    events = EventAccumulator(str(tmp_path)).Reload()
    losses = {event.value for event in events.Scalars("val/loss")}
    assert len(events.Scalars("val/loss")) == 3 and len(losses) == 1


def test_the_learning_rate_follows_its_schedule(logged):
    events = EventAccumulator(str(logged)).Reload()
    rates = [event.value for event in events.Scalars("lr")]
    from diffusion_lab.optim.lr_schedule import Cosine

    schedule = Cosine(warmup=0.05)
    assert rates == pytest.approx([1e-3 * schedule(i / 6) for i in range(6)], rel=1e-5)


@pytest.mark.slow
def test_wandb_keeps_an_offline_run(tmp_path):
    pytest.importorskip("wandb")
    train(compose_config([*PICTURED, "logger=wandb", "logger.wandb.offline=true"], tmp_path))
    [run] = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
    names = {p.name.split("_")[0] for p in (run / "files" / "media" / "images").rglob("*.png")}
    assert {"samples", "trajectory", "loss"} <= names


@pytest.mark.slow
def test_mlflow_keeps_metrics_parameters_and_figures(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    overrides = [*PICTURED, "logger=mlflow", f"paths.log_dir={tmp_path}", "trainer.max_epochs=2"]
    result = train(compose_config(overrides, tmp_path / "run"))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("diffusion_lab")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["network/channels"] == "[32, 64, 64]"
    assert run.data.metrics["val/loss"] == pytest.approx(result.metrics["val/loss"])
    pictures = {file.path for file in client.list_artifacts(run.info.run_id, "figures")}
    assert "figures/trajectory.png" in pictures


@pytest.mark.slow
def test_mlflow_names_runs_by_their_folders(tmp_path, monkeypatch):
    """The runs have the same seed, from which MLflow derives its default names."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    words = [*RUN, "trainer.max_epochs=1", "logger=mlflow", f"paths.log_dir={tmp_path}"]
    for folder in ("runs/first", "runs/second", "sweeps/of_today/0"):
        train(compose_config(words, tmp_path / folder))
    train(compose_config([*words, "+logger.mlflow.run_name=mine"], tmp_path / "runs" / "third"))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("diffusion_lab").experiment_id])
    assert {run.info.run_name for run in runs} == {"first", "second", "of_today/0", "mine"}


@pytest.mark.slow
def test_wandb_names_runs_by_their_folders(tmp_path):
    wandb = pytest.importorskip("wandb")
    names = []
    for folder in ("first", "second"):
        words = [*RUN, "trainer.max_epochs=1", "logger=wandb", "logger.wandb.offline=true"]
        result = train(compose_config(words, tmp_path / folder))
        names.append(result.trainer.logger.experiment.name)
    assert names == ["first", "second"]
    assert wandb.run is None

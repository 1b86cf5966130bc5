"""A resumed run equals one that was never stopped; errors of resume= and its options."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusion_lab import compose_config, train
from diffusion_lab.training.rerun import compare_runs
from tests.cli.test_bad_input import assert_refused
from tests.conftest import RUN, last_line
from tests.support.forked import ROOT
from tests.support.resume_settings import rows_of, state_of


def damage(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped":  # a bit of a weight, which torch would load without a word
        state = torch.load(path, weights_only=True)
        weight = next(iter(state["state_dict"].values())).numpy().tobytes()
        at = content.index(weight)
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    else:
        path.unlink()


@pytest.mark.slow
def test_killed_run_ends_like_an_uninterrupted_one(tmp_path):
    """Three kills here; `make torture` has a hundred."""
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.training.torture",
            str(tmp_path / "t"),
            "--kills",
            "3",
            "--seed",
            "5",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert " 0 differences" in process.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", ["truncated", "flipped", "empty", "gone"])
def test_damaged_checkpoint_falls_back_to_an_older_one(half, whole, typed, how):
    damage(half / "checkpoints" / "last.ckpt", how)
    # the state before: as good, only older
    saved = half / "checkpoints" / "previous.ckpt"
    if not saved.exists():
        saved = half / "checkpoints" / "best.ckpt"
    code, out, err = typed("train", f"resume={half}", "trainer.max_epochs=2")
    assert code == 0, err
    fault = "is missing" if how == "gone" else "cannot be read"
    assert f"last.ckpt {fault}" in out and "falling back" in out
    record = json.loads((half / "metrics.json").read_text())
    assert record["status"] == "finished"
    [again] = record["resumed"]
    assert again["checkpoint"] == saved.stem
    assert compare_runs(half, whole) == []


def test_sampling_from_a_damaged_checkpoint_is_rejected(half, typed):
    folder = half / "checkpoints"
    damage(folder / "last.ckpt", "flipped")
    shutil.copy(folder / "best.ckpt", folder / "previous.ckpt")
    said = "use checkpoint=previous or checkpoint=best or another run"
    assert_refused(typed("sample", f"run={half}"), "last.ckpt is damaged", said)
    damage(folder / "previous.ckpt", "truncated")
    refused = typed("sample", f"run={half}", "checkpoint=previous")
    assert_refused(refused, "previous.ckpt is damaged", ": use checkpoint=best or another run")
    (folder / "best.ckpt").unlink()
    (folder / "previous.ckpt").unlink()
    assert_refused(typed("sample", f"run={half}"), "use another checkpoint or run")


@pytest.mark.slow
@pytest.mark.parametrize("quotes", ["", "'", '"'])
def test_a_folder_is_named_with_quotes_or_without(half, typed, quotes):
    odd = half.rename(half.with_name("a dir=x, ü ([1])"))
    code, out, err = typed("train", f"resume={quotes}{odd}{quotes}", "trainer.max_epochs=2")
    assert code == 0, err
    assert out.strip().splitlines()[-1] == str(odd)


def test_limit_may_be_raised_and_the_first_configuration_stays(whole, half, typed, tmp_path):
    first = (half / ".hydra" / "config.yaml").read_bytes()
    code, out, err = typed("train", f"resume={half}", "trainer.max_epochs=2")
    assert code == 0, err
    assert out.strip().splitlines()[-1] == str(half)
    assert (half / ".hydra" / "config.yaml").read_bytes() == first
    assert (half / ".hydra" / "resumed_1" / "config.yaml").is_file()
    assert list(state_differences(whole, half)) == []
    assert_refused(typed("train", f"resume={half}"), "finished", "trainer.max_epochs=")
    assert (tmp_path / "logs").exists() is False  # no folder beside it


def hyper_parameters(run):
    """Read hyperparameters as TensorBoard's HPARAMS tab does: the first logged value counts."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(run))
    events.Reload()
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: value.number_value or value.string_value for name, value in given.items()}


@pytest.mark.slow
def test_hyperparameters_show_the_raised_limit(half, typed):
    assert hyper_parameters(half)["trainer/max_epochs"] == 1
    before = EventAccumulator(str(half))
    before.Reload()
    code, _, err = typed("train", f"resume={half}", "trainer.max_epochs=2")
    assert code == 0, err
    assert hyper_parameters(half)["trainer/max_epochs"] == 2
    after = EventAccumulator(str(half))
    after.Reload()
    first = before.Scalars("train/loss_epoch")
    assert after.Scalars("train/loss_epoch")[: len(first)] == first  # and nothing else was lost


@pytest.mark.slow
def test_run_behind_a_link_keeps_its_best_checkpoint(half, typed, tmp_path, recwarn):
    (tmp_path / "link").symlink_to(half)
    code, _, err = typed("train", f"resume={tmp_path / 'link'}", "trainer.max_epochs=2")
    assert code == 0, err
    # with which Lightning says that it forgets the best score
    assert not [w for w in recwarn if "dirpath has changed" in str(w.message)]


@pytest.mark.slow
def test_moved_run_keeps_its_best_checkpoint(whole, half, typed, tmp_path):
    """The best score stays that of the better epoch after the folder was moved."""
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    half.rename(moved)
    code, _, err = typed("train", f"resume={moved}", "trainer.max_epochs=2")
    assert code == 0, err
    assert list(state_differences(whole, moved)) == []
    records = [json.loads((run / "metrics.json").read_text()) for run in (whole, moved)]
    assert records[0]["best"] == records[1]["best"]
    bests = [torch.load(run / "checkpoints" / "best.ckpt") for run in (whole, moved)]
    assert bests[0]["global_step"] == bests[1]["global_step"]
    assert not half.exists()


@pytest.mark.slow
def test_every_logger_continues(typed, tmp_path):
    """CSV and TensorBoard have no row twice and none missing."""
    words = (*RUN, "logger=[csv,tensorboard]", "trainer.log_every_n_steps=1")
    train(compose_config(words, tmp_path / "whole"))
    train(compose_config([*words, "trainer.max_epochs=1"], tmp_path / "half"))
    table = tmp_path / "half" / "csv" / "metrics.csv"
    first = rows_of(table)
    # what a process logs after its last checkpoint, and the half line that a kill leaves
    table.write_text(table.read_text() + "0,7,99,,,,\n1")
    state = torch.load(tmp_path / "half" / "checkpoints" / "last.ckpt")
    code, _, err = typed("train", f"resume={tmp_path / 'half'}", "trainer.max_epochs=2")
    assert code == 0, err
    rows = rows_of(table)
    assert rows[: len(first)] == first and len(rows) > len(first)
    assert rows == rows_of(tmp_path / "whole" / "csv" / "metrics.csv")
    assert max(int(row["step"]) for row in first) < state["global_step"]
    assert not (table.parent / "metrics_before.csv").exists()


def state_differences(a, b):
    from diffusion_lab.training.rerun import differences

    one, two = state_of(a), state_of(b)
    for state in (one, two):
        state.pop("tensorboard")  # the final/ metrics of the half run are from its own end
        state.pop("record")
    yield from differences(one, two)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["optimizer.lr=1"], ["optimizer.lr=1", "another experiment", "trainer.max_epochs"]),
        (["model=ddpm"], ["model=ddpm", "another experiment"]),
        (["+seed=3"], ["+seed=3", "another experiment"]),
        (["-m"], ["leave out --multirun"]),
        (["trainer.max_epochs=many"], ["trainer.max_epochs=many"]),
    ],
    ids=lambda v: " ".join(v),
)
def test_options_that_change_the_experiment_are_rejected(half, typed, words, expected):
    before = (half / "checkpoints" / "last.ckpt").read_bytes()
    assert_refused(typed("train", f"resume={half}", *words), *expected)
    assert (half / "checkpoints" / "last.ckpt").read_bytes() == before


def test_folder_without_a_run_is_rejected(typed, tmp_path):
    assert_refused(typed("train", "resume=nowhere"), "resume=nowhere", "no run folder")
    (tmp_path / "empty" / ".hydra").mkdir(parents=True)
    assert_refused(typed("train", "resume=empty"), "no run folder")
    assert_refused(typed("train", "rerun=empty"), "rerun=empty", "no run folder")


@pytest.mark.slow
def test_run_stopped_before_its_first_checkpoint_begins_again(half, whole, typed):
    """Started from Python or the command line, with or without metrics.json."""
    typed_run = half.with_name("typed")
    code, _, err = typed("train", *RUN, "trainer.max_epochs=1", f"hydra.run.dir={typed_run}")
    assert code == 0, err
    (half / "metrics.json").unlink()
    shutil.copy(half.parent / "whole" / "metrics.json", typed_run)
    record = typed_run / "metrics.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    for run in (half, typed_run):
        for path in (run / "checkpoints").iterdir():
            path.unlink()
        code, out, err = typed("train", f"resume={run}", "trainer.max_epochs=2")
        assert code == 0, err
        assert "starting at step 0" in out
        assert compare_runs(run, whole) == []
        assert list(state_differences(whole, run)) == []
    command = torch.load(typed_run / "checkpoints" / "last.ckpt")["config"]["command"]
    assert command["choices"]["model"] == "flow" and "model=flow" in command["overrides"]


@pytest.mark.slow
def test_temporary_files_of_other_commands_are_kept(half, typed):
    """export.py out=<run>/exported writes a folder, sample.py a file in its own folder."""
    (half / ".exported.0.part").mkdir()
    drawn = half / "samples" / "now" / ".samples.npz.0.part"
    drawn.parent.mkdir(parents=True)
    drawn.write_text("half of it")
    left = half / "checkpoints" / ".last.ckpt.0.part"
    left.write_text("half of it")
    code, _, err = typed("train", f"resume={half}", "trainer.max_epochs=2")
    assert code == 0, err
    assert drawn.exists() and not left.exists()


def test_run_without_a_readable_checkpoint_is_rejected(half, typed):
    for path in (half / "checkpoints").iterdir():
        path.write_bytes(b"")
    assert_refused(typed("train", f"resume={half}"), "no readable checkpoint", "start a new run")


@pytest.mark.slow
def test_path_with_parent_folders(half, typed, tmp_path):
    (tmp_path / "else").mkdir()
    code, _, err = typed("train", "resume=else/../half", "trainer.max_epochs=2")
    assert code == 0, err


def test_limit_already_reached_is_rejected(whole, typed, tmp_path):
    for word in ("trainer.max_epochs=2", "trainer.max_steps=1"):
        assert_refused(typed("train", f"resume={whole}", word), "finished", "nothing to train")
    words = (*RUN, "trainer.max_epochs=-1", "trainer.max_time=00:00:00:01")
    train(compose_config(words, tmp_path / "timed"))
    assert_refused(typed("train", f"resume={tmp_path / 'timed'}"), "finished", "trainer.max_time=")
    for word in ("trainer.max_epochs=9999", "trainer.max_time=00:00:00:01"):
        refused = typed("train", f"resume={tmp_path / 'timed'}", word)
        assert_refused(refused, "trainer.max_time=00:00:00:01", "seconds")


@pytest.mark.slow
def test_figures_of_a_stopped_run_stay(typed, tmp_path):
    words = (*RUN, "callbacks=default", "trainer.max_epochs=1")
    train(compose_config(words, tmp_path / "run"))
    code, _, err = typed("train", f"resume={tmp_path / 'run'}", "trainer.max_epochs=2")
    assert code == 0, err
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    steps = {event.step for event in events.Scalars("train/loss_epoch")}
    assert {image.step for image in events.Images("samples")} == steps and len(steps) == 2


@pytest.mark.slow
def test_two_processes_are_resumed_exactly(command, tmp_path):
    words = (*RUN, "trainer.devices=2", "trainer.strategy=ddp")
    whole = last_line(command("train", *words, f"hydra.run.dir={tmp_path / 'whole'}"))
    half = last_line(
        command("train", *words, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'half'}")
    )
    last_line(command("train", f"resume={half}", "trainer.max_epochs=2"))
    assert list(state_differences(whole, half)) == []

"""Sweeps: the summary, names in TensorBoard, nested folders."""

import csv
import shutil
import signal
import time

import pytest
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from diffusion_lab import compose_config, train
from diffusion_lab.config.resolvers import swept, tensorboard_name
from diffusion_lab.runs.sweep import job_folders, read_jobs
from tests.conftest import RUN, last_line
from tests.support.forked import Forked

SHORT = [*RUN, "trainer.max_epochs=1"]


def names_in_tensorboard(folder):
    """Names of the runs that TensorBoard's own reader lists."""
    return set(EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload().Runs())


def rows_of(sweep_dir):
    with (sweep_dir / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "seeds"
    words = [*SHORT, "-m", "seed=1,2", "optimizer.lr=1e-3", f"hydra.sweep.dir={folder}"]
    process = Forked("train", *words)
    out, err = process.communicate()
    assert process.wait() == 0, out + err
    return folder, out


@pytest.mark.slow
def test_a_job_is_named_by_its_swept_overrides(sweep):
    folder, out = sweep
    assert names_in_tensorboard(folder) == {"0/seed=1", "1/seed=2"}
    assert [row["job"] for row in rows_of(folder)] == ["0", "1"]
    table = out[out.index("2 jobs") :]
    assert "seed=1" in table and "seed=2" in table and "max_epochs" not in table


@pytest.mark.slow
def test_a_resumed_job_keeps_its_name(sweep, command, tmp_path):
    """Also without the sweep's own file."""
    folder, _ = sweep
    moved = tmp_path / "0"
    shutil.copytree(folder / "0", moved)
    last_line(command("train", f"resume={moved}", "trainer.max_epochs=2"))
    assert names_in_tensorboard(moved) == {"seed=1"}
    events = EventAccumulator(str(moved / "seed=1")).Reload()
    steps = [event.step for event in events.Scalars("val/loss")]
    assert len(steps) == 2 and steps == sorted(steps)


@pytest.mark.slow
def test_an_old_job_resumes_with_its_files_where_they_are(tmp_path):
    """Jobs of older sweeps have TensorBoard's files in the run folder itself."""
    folder = tmp_path / "sweep" / "0"
    cfg = compose_config([*SHORT, "logger.tensorboard.name=''"], folder)
    train(cfg)
    (folder.parent / "multirun.yaml").write_text("hydra: {overrides: {task: ['seed=1,2']}}")
    (folder / ".hydra" / "overrides.yaml").write_text("['seed=1']")
    assert names_in_tensorboard(folder) == {"."}
    assert tensorboard_name(str(folder)) == ""
    again = compose_config([*SHORT, "trainer.max_epochs=2"], folder)
    train(again, resume=True)
    assert names_in_tensorboard(folder) == {"."}


def test_a_single_run_has_tensorboards_files_in_its_folder(whole):
    assert names_in_tensorboard(whole) == {"."}


def test_swept_overrides_are_read_in_every_syntax(tmp_path):
    typed = ["seed=1,2", "optimizer.lr=1e-3", "network.width=range(4,8)", "model=flow", "+a=c,d"]
    saved = {"hydra": {"overrides": {"task": typed}, "sweeper": {"params": {"data.x": "1,2"}}}}
    OmegaConf.save(OmegaConf.create(saved), tmp_path / "multirun.yaml")
    job = ["seed=1", "optimizer.lr=0.001", "network.width=4", "model=flow", "+a=c", "data.x=2"]
    assert swept(job, tmp_path) == ["seed=1", "network.width=4", "+a=c", "data.x=2"]
    assert swept(job, tmp_path / "elsewhere") == job


@pytest.mark.slow
def test_jobs_in_nested_folders_are_summarised_and_compared(typed, tmp_path):
    words = ["-m", "seed=1,2", "hydra.sweep.dir=nested", "hydra.sweep.subdir=lr/${seed}/run"]
    code, out, err = typed("train", *SHORT, *words)
    assert code == 0, err
    folder = tmp_path / "nested"
    assert [row["job"] for row in rows_of(folder)] == ["lr/1/run", "lr/2/run"]
    assert all(row["status"] == "finished" and row["val/loss"] for row in rows_of(folder))
    assert "2 jobs" in out
    code, _, err = typed("compare", "runs=nested")
    assert "holds no run" not in err and "evaluate.py run=" in err
    code, _, err = typed("train", *SHORT, *words)  # into the same folder once more
    assert code == 2 and "holds a run already" in err


def test_jobs_are_sorted_by_number(tmp_path):
    for name in ("10", "9", "b/2", "b/11", "a"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra" / "config.yaml").touch()
        (tmp_path / name / "checkpoints").mkdir()
    found = [str(job.relative_to(tmp_path)) for job in job_folders(tmp_path)]
    assert found == ["9", "10", "a", "b/2", "b/11"]


@pytest.mark.slow
def test_an_interrupted_sweep_has_a_summary(tmp_path):
    words = [*RUN, "trainer.max_epochs=100000", "-m", "seed=5,6", "hydra.sweep.dir=stopped"]
    process = Forked("train", *words, cwd=tmp_path)
    ends = time.monotonic() + 120
    while not list(tmp_path.glob("stopped/0/checkpoints/last.ckpt")):
        assert time.monotonic() < ends and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.wait() == 130
    assert [row["status"] for row in read_jobs(tmp_path / "stopped")] == ["interrupted"]
    assert "seed=5" in out[out.index("1 job") :]

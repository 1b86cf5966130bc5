"""Several processes at the same time: a run folder each, and one process per run folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab.errors import UserError
from diffusion_lab.system.lock import NAME, check_still_there, locked
from tests.conftest import TINY
from tests.support.forked import ROOT, Forked
from tests.support.processes import training, wait_until


@pytest.mark.slow
def test_a_second_process_is_rejected_until_the_first_is_killed(tmp_path, typed):
    run_dir = tmp_path / "run"
    again = (*TINY, "callbacks.samples=null", f"hydra.run.dir={run_dir}")
    with training(run_dir) as running:
        record = (run_dir / "metrics.json").read_bytes()
        saved = {p: p.read_bytes() for p in (run_dir / ".hydra").iterdir()}
        code, _, err = typed("train", *again)
        assert code == 2
        [line] = err.strip().splitlines()
        assert line.startswith(f"error: {run_dir} is in use by another process")
        assert f"({running.process.pid} on " in line
        assert (run_dir / "metrics.json").read_bytes() == record
        assert {p: p.read_bytes() for p in (run_dir / ".hydra").iterdir()} == saved
        assert running.process.poll() is None
        running.process.kill()
        running.process.wait()
        code, _, err = typed("train", *again)
        assert code == 2 and f"{run_dir} holds a run already" in err
        shutil.rmtree(run_dir / "checkpoints")
        (run_dir / "metrics.json").unlink()
        code, _, err = typed("train", *again)
        assert code == 0, err
    assert json.loads((run_dir / "metrics.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_two_processes_that_resume_the_same_run(tmp_path, command):
    """The second is rejected before it changes anything; the lock ends with the first."""
    run_dir = tmp_path / "run"
    with training(run_dir) as running:
        running.process.kill()
        running.process.wait()
        first = Forked("train", f"resume={run_dir}")
        try:
            wait_until(lambda: "resumed" in (run_dir / "metrics.json").read_text())
            log = (run_dir / "train.log").read_bytes()
            saved = sorted((run_dir / ".hydra").rglob("*"))
            second = command("train", f"resume={run_dir}")
            assert second.returncode == 2
            [line] = second.stderr.strip().splitlines()
            assert f"({first.pid} on " in line and "in use by another process" in line
            assert (run_dir / "train.log").read_bytes().startswith(log)
            assert sorted((run_dir / ".hydra").rglob("*")) == saved
            assert first.poll() is None
        finally:
            first.kill()
            first.communicate()
    third = command("train", f"resume={run_dir}", "+trainer.max_steps=1")
    assert "in use" not in third.stderr


HOLD = """
import sys
from pathlib import Path
from diffusion_lab.system.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_the_lock_ends_with_its_process_and_only_rank_0_locks(tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with (
        pytest.raises(UserError, match=rf"{run_dir} is in use.*\({holder.pid} on "),
        locked(run_dir),
    ):
        pass
    monkeypatch.setenv("LOCAL_RANK", "1")
    with locked(run_dir):  # another process of the same run does not wait for the first
        pass
    monkeypatch.undo()
    holder.kill()
    holder.communicate()
    with locked(run_dir):
        check_still_there(run_dir)
        (run_dir / NAME).unlink()
        with pytest.raises(UserError, match="was removed"):
            check_still_there(run_dir)


def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(tmp_path):
        check_still_there(tmp_path)
    assert "no locks on this file system" in caplog.text


NAMES = """
import sys, time
from pathlib import Path
from diffusion_lab import cli
from diffusion_lab.cli import training
training._train = lambda cfg: print(cfg.paths.output_dir)
Path(f"ready{sys.argv.pop()}").touch()
while len(list(Path().glob("ready*"))) < 2:
    time.sleep(0.05)
cli.train()
"""


@pytest.mark.slow
def test_launches_in_the_same_second(tmp_path):
    """Run everything before the training: it creates the folder and takes most of the time."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", NAMES, "data=fake", str(k)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for k in range(2)
    ]
    folders = {Path(p.communicate(timeout=600)[0].strip()) for p in processes}
    assert len(folders) == 2
    assert all((folder / ".hydra" / "config.yaml").is_file() for folder in folders)

"""rerun= repeats a run in a new folder and never overwrites one."""

import shutil

import pytest

from diffusion_lab import compose_config, train
from diffusion_lab.errors import UserError
from diffusion_lab.runs.state import check_new
from tests.cli.test_bad_input import assert_refused
from tests.conftest import RUN


@pytest.mark.slow
def test_rerun_uses_the_last_limit(half, typed):
    code, _, err = typed("train", f"resume={half}", "trainer.max_epochs=2")
    assert code == 0, err
    code, out, err = typed("train", f"rerun={half}")
    assert code == 0, out + err


def test_rerun_repeats_a_run_and_reports_a_difference(whole, typed):
    code, out, err = typed("train", f"rerun={whole}")
    assert code == 0, err
    *_, verdict, folder = out.strip().splitlines()
    assert verdict == "the same data, losses and weights, bit for bit"
    assert folder.startswith(f"{whole}_again_")
    path = whole / "losses.csv"
    path.write_text(path.read_text().replace("1,", "1,9"))
    code, out, _ = typed("train", f"rerun={whole}")
    assert code == 1 and "differs: losses from step" in out
    assert_refused(typed("train", f"rerun={whole}", "seed=3"), "seed=3", "another experiment")


def test_run_with_a_time_limit_cannot_be_repeated(tmp_path, typed):
    train(compose_config([*RUN, "trainer.max_time=00:01:00:00"], tmp_path / "run"))
    refused = typed("train", f"rerun={tmp_path / 'run'}")
    assert_refused(refused, "had a time limit", "trainer.max_time=00:01:00:00", "max_epochs")
    assert [p.name for p in tmp_path.glob("run*")] == ["run"]


@pytest.mark.slow
def test_run_resumed_with_a_time_limit_cannot_be_repeated(half, typed):
    word = "trainer.max_time=00:01:00:00"
    assert typed("train", f"resume={half}", "trainer.max_epochs=3", word)[0] == 0
    assert_refused(typed("train", f"rerun={half}"), "had a time limit", "00:01:00:00")


def test_a_new_run_does_not_overwrite_another(half, typed, monkeypatch):
    """Nor a sweep; a run without a checkpoint, and one that SLURM requeued, may start."""
    before = {path: path.read_bytes() for path in half.rglob("*") if path.is_file()}
    again = ("train", *RUN, f"hydra.run.dir={half}")
    assert_refused(typed(*again), f"{half} holds a run already", f"resume={half}")
    sweep = half.parent
    swept = typed("train", "-m", *RUN, "seed=1,2", f"hydra.sweep.dir={sweep}")
    assert_refused(swept, f"{half} holds a run already")
    with pytest.raises(UserError, match="holds a run already"):
        train(compose_config(RUN, half))
    after = {path: path.read_bytes() for path in half.rglob("*") if path.is_file()}
    assert {k: v for k, v in after.items() if k.name != ".lock"} == {
        k: v for k, v in before.items() if k.name != ".lock"
    }
    (half / "hpc_ckpt_1.ckpt").touch()
    with monkeypatch.context() as slurm:
        for name in ("NTASKS", "JOB_ID"):
            slurm.setenv(f"SLURM_{name}", "1")
        check_new(half)
    with pytest.raises(UserError, match="holds a run already"):
        check_new(half)
    (half / "hpc_ckpt_1.ckpt").unlink()
    shutil.rmtree(half / "checkpoints")
    (half / "metrics.json").write_text('{"status": "failed"}')
    assert typed(*again)[0] == 0


def test_resume_and_rerun_exclude_each_other(half, typed):
    refused = typed("train", f"resume={half}", f"rerun={half}")
    words = f"resume={half} and rerun={half} cannot be combined", f"leave out rerun={half}"
    assert_refused(refused, *words)
    twice = typed("train", f"resume={half}", "resume=other")
    assert_refused(twice, f"resume={half} and resume=other", "leave out resume=other")

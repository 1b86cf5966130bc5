"""System errors during a run (disk, memory, folder): one line, and no checkpoint is lost."""

import errno
import json
import shutil
import subprocess
from contextlib import suppress

import numpy as np
import pytest
import torch

from diffusion_lab.config.error_message import one_line
from diffusion_lab.system.atomic import replacing
from diffusion_lab.system.system_errors import fault
from tests.support.processes import training

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")


def assert_one_line(err, *words):
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    for word in words:
        assert word in lines[0]


def assert_usable(run_dir, typed):
    """Check that the last checkpoint is complete and can be sampled."""
    assert not list(run_dir.rglob("*.part"))
    state = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] >= 2
    out = run_dir.parent / "drawn"
    code, printed, err = typed("sample", f"run={run_dir}", f"out={out}", "num_samples=2")
    assert code == 0, printed + err
    assert np.load(out / "samples.npz")["images"].shape == (2, 1, 28, 28)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk(small_disk, typed):
    run_dir = small_disk / "run"
    with training(run_dir) as running:
        before = json.loads((run_dir / "metrics.json").read_text())
        with (
            (small_disk / "filler").open("wb", buffering=0) as filler,
            suppress(OSError),
        ):
            while True:
                filler.write(bytes(1 << 16))
        code, err = running.ended()
    assert code == 2
    assert_one_line(err, "No space left on device", "free some space", "paths.log_dir")
    # unchanged, or "failed" if there was still room for that record
    record = json.loads((run_dir / "metrics.json").read_text())
    assert record == before or (
        record["status"] == "failed" and "No space left on device" in record["error"]
    )
    (small_disk / "filler").unlink()
    assert_usable(run_dir, typed)


@pytest.mark.slow
def test_the_file_size_limit(tmp_path, typed):
    run_dir = tmp_path / "run"
    with training(run_dir) as running:
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (8192, 8192))
        code, err = running.ended()
    assert code == 2
    assert_one_line(err, "File too large", "ulimit -f")
    record = json.loads((run_dir / "metrics.json").read_text())
    assert record["status"] == "failed" and "File too large" in record["error"]
    assert_usable(run_dir, typed)


@pytest.mark.slow
def test_a_run_folder_removed_during_training(tmp_path, typed):
    run_dir = tmp_path / "run"
    with training(run_dir) as running:
        run_dir.rename(tmp_path / "elsewhere")  # at once: rmtree goes file by file
        code, err = running.ended()
    assert code == 2
    assert_one_line(err, f"{run_dir} was removed")
    assert not run_dir.exists()
    code, _, err = typed("sample", f"run={run_dir}")
    assert code == 2
    assert_one_line(err, "is no folder")


@pytest.mark.slow
def test_a_run_folder_made_read_only_during_training(tmp_path, typed):
    """Immutable, as root may write into a read-only folder."""
    run_dir = tmp_path / "run"
    with training(run_dir) as running:
        folders = [str(run_dir), str(run_dir / "checkpoints"), str(run_dir / "figures")]
        if not shutil.which("chattr") or subprocess.run(["chattr", "+i", *folders]).returncode:
            pytest.skip("only root may make a folder immutable, and not on every file system")
        record = (run_dir / "metrics.json").read_bytes()
        try:
            code, err = running.ended()
        finally:
            subprocess.run(["chattr", "-i", *folders], check=True)
    assert code == 2
    assert_one_line(err, "Operation not permitted", "give a folder that can be written")
    assert (run_dir / "metrics.json").read_bytes() == record
    assert_usable(run_dir, typed)


@pytest.mark.slow
def test_out_of_memory(tmp_path, typed, monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")  # else a step reuses memory that it already has
    run_dir = tmp_path / "run"
    large = ("data.num_images=404", "data.batch_size=400")
    with training(run_dir, *large, "callbacks.samples=null") as running:
        # below its present use: every new allocation fails, such as a layer's 40 MB
        resource.prlimit(running.process.pid, resource.RLIMIT_AS, (1 << 20, 1 << 20))
        code, err = running.ended()
    assert code == 2
    assert_one_line(err, "out of memory", "data.batch_size")
    assert json.loads((run_dir / "metrics.json").read_text())["status"] == "failed"
    assert_usable(run_dir, typed)


def test_out_of_memory_while_loading_is_not_reported_as_a_damaged_checkpoint(
    typed, runs, monkeypatch
):
    def refused(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: tried to get 9 bytes")

    monkeypatch.setattr(torch, "load", refused)
    code, _, err = typed("sample", f"run={runs['conditional']}")
    assert code == 2
    assert_one_line(err, "out of memory", "9 bytes")


def test_more_images_than_memory(typed, tmp_path):
    words = ["data=fake", "trainer.accelerator=cpu", "hydra.run.dir=run"]
    code, _, err = typed("train", *words, "data.num_images=1000000000000")
    assert code == 2
    assert_one_line(err, "out of memory", "can't allocate memory")
    assert json.loads((tmp_path / "run/metrics.json").read_text())["status"] == "failed"


def test_a_run_folder_that_cannot_be_created(typed, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in ("file", "file/run"):
        code, _, err = typed("train", "data=fake", f"hydra.run.dir={folder}")
        assert code == 2
        assert_one_line(err, "file", "give a folder that can be written")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_first_of_several_system_errors_is_reported():
    def fails() -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")
        except RuntimeError:
            raise OSError(errno.ENOSPC, "No space left on device", "losses.csv") from None

    with pytest.raises(OSError) as raised:
        fails()
    line = fault(raised.value)
    assert line is not None and "Tried to allocate 2.00 GiB" in line and "\n" not in line


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file", "x"), ValueError("x"), RuntimeError("x")]
)
def test_other_errors_keep_their_traceback(error):
    assert one_line(error) is None


def test_a_failed_write_names_the_file_and_leaves_it_unchanged(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("before")

    def write() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError) as raised:
        write()
    assert raised.value.filename == str(path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]

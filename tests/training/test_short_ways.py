"""Number of files that a training and sample.py go through."""

import sys
import threading
from pathlib import Path

import pytest

import diffusion_lab
from tests.conftest import RUN

PACKAGE = f"{Path(diffusion_lab.__file__).parent}/"
TRAINING = ("train", "resume", "preflight", "build")


def files_called_by(files, work):
    """Return the package's files with functions that the functions in `files` call directly."""
    called = set()

    def look(frame, event, _):
        if event != "call" or frame.f_back is None or frame.f_code.co_name == "<module>":
            return
        here, caller = (f.f_code.co_filename for f in (frame, frame.f_back))
        ours = here.startswith(PACKAGE) and caller.removeprefix(PACKAGE) in files
        if ours and here != caller:
            called.add(here.removeprefix(PACKAGE))

    sys.setprofile(look)
    threading.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return called


@pytest.mark.slow
def test_train_goes_through_at_most_20_files_and_sample_through_9(typed, tmp_path):
    """Both figures stand in docs/architecture.md."""
    words = ("train", *RUN, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'run'}")
    stages = {f"training/{name}.py" for name in TRAINING}
    trained = files_called_by(stages, lambda: typed(*words))
    assert "training/components.py" in trained and len(trained) <= 20, sorted(trained)
    words = ("sample", f"run={tmp_path / 'run'}", "num_samples=2", "sampler.num_steps=2")
    sampled = files_called_by({"commands/sample.py"}, lambda: typed(*words))
    assert "runs/load.py" in sampled and len(sampled) <= 9, sorted(sampled)
    page = (Path(PACKAGE).parent / "docs/architecture.md").read_text()
    assert f"| train | 23 | {len(trained)} |" in page
    assert f"| sample | 14 | {len(sampled)} |" in page

"""resume= of a finished run names the limit to raise, or says that there is none."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from diffusion_lab.cli import resume_arguments
from diffusion_lab.errors import UserError


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"max_epochs": 3, "max_steps": -1}, "raise the run's limit, trainer.max_epochs=$"),
        (
            {"max_epochs": -1, "max_steps": -1, "max_time": None},
            "no limit to raise: start a new run",
        ),
    ],
)
def test_a_finished_run(tmp_path, monkeypatch, trainer, message):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").touch()
    saved = SimpleNamespace(config=OmegaConf.create({"trainer": trainer}), notes=[])
    monkeypatch.setattr(resume_arguments, "read_config", lambda folder: saved)
    monkeypatch.setattr(resume_arguments, "read_record", lambda folder: {"status": "finished"})
    with pytest.raises(UserError, match=message):
        resume_arguments.resumed_run([f"resume={tmp_path}"])

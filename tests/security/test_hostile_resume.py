"""A run folder that somebody made to harm: what resume= and rerun= take from it calls nothing."""

import json
import shutil

import pytest
import torch
import yaml

from diffusion_lab import compose_config, train
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY

RUN = (*TINY[:-2], "callbacks=minimal", "model=flow", "network.width=8", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest") / "run"
    train(compose_config(RUN, folder))
    return folder


@pytest.fixture
def forged(honest, tmp_path):
    """Copy the run with another configuration; -> its folder, and the file that the code leaves."""

    def forge(change, checkpoint=lambda config: None):
        folder = tmp_path / "forged"
        (folder / ".hydra").mkdir(parents=True)
        shutil.copytree(honest / "checkpoints", folder / "checkpoints")
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        checkpoint(state["config"])
        torch.save(state, folder / "checkpoints" / "last.ckpt")
        record = json.loads((honest / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps(record | {"status": "running"}))
        config = yaml.safe_load((honest / ".hydra" / "config.yaml").read_text())
        change(config)
        (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return forge


CALL = {"_target_": "os.system", "command": "touch ran"}
FORGERIES = {
    "a callback": lambda c: c["callbacks"].update(evil=CALL),
    "in a list": lambda c: c["trainer"].update(plugins=[CALL]),
    "the network": lambda c: c["model"].update(network=CALL),
    "the optimizer": lambda c: c["optimizer"].update(_target_="os.system", command="touch ran"),
    "a function by its name": lambda c: c["model"].update(
        pairing={"_target_": "hydra.utils.get_method", "path": "os.system"}
    ),
    "a function by its place": lambda c: c["model"].update(
        pairing={"_target_": "hydra.utils.get_method", "_args_": ["os.system"]}
    ),
    "through a module of ours": lambda c: c["callbacks"].update(
        evil={
            "_target_": "diffusion_lab.callbacks.monitoring.loss_history.Path.touch",
            "self": "ran",
        }
    ),
    "Hydra itself": lambda c: c.update(hydra={"callbacks": {"evil": CALL}}),
    "a list of groups": lambda c: c.update(defaults=[{"hydra/callbacks": "evil"}]),
}


@pytest.mark.parametrize("command", ["resume", pytest.param("rerun", marks=pytest.mark.slow)])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_it_is_refused_in_one_line(forged, typed, tmp_path, forgery, command):
    folder = forged(FORGERIES[forgery], FORGERIES[forgery])
    assert_refused(typed("train", f"{command}={folder}"), "trust")
    assert not list(tmp_path.rglob("ran"))
    assert json.loads((folder / "metrics.json").read_text())["status"] == "running"


@pytest.mark.parametrize("forgery", FORGERIES)
def test_before_a_checkpoint_the_file_is_refused(forged, typed, tmp_path, forgery):
    folder = forged(FORGERIES[forgery])
    shutil.rmtree(folder / "checkpoints")
    assert_refused(typed("train", f"resume={folder}"), "trust")
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.slow
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_file_that_is_not_the_checkpoints_is_not_used(forged, typed, tmp_path, forgery):
    folder = forged(FORGERIES[forgery])
    code, out, err = typed("train", f"resume={folder}", "trainer.max_epochs=1")
    assert code == 0, err
    assert "the checkpoint" in out
    assert not list(tmp_path.rglob("ran"))


def test_a_group_beside_the_configuration_is_not_read(forged, typed, tmp_path):
    """Hydra would set up a log with whatever such a file names."""
    folder = forged(lambda config: None)
    group = folder / ".hydra" / "hydra" / "job_logging"
    group.mkdir(parents=True)
    evil = {"version": 1, "handlers": {"evil": {"()": "os.system", "command": "touch ran"}}}
    (group / "lab.yaml").write_text(yaml.safe_dump(evil))
    code, _, err = typed("train", f"resume={folder}", "trainer.max_epochs=1")
    assert code == 0, err
    assert not list(tmp_path.rglob("ran"))


def test_code_that_is_trusted_by_name_runs(forged, typed, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import lightning\nfrom pathlib import Path\n"
        "class Mark(lightning.Callback):\n"
        "    def setup(self, *_, **__):\n        Path('ran').touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = {"_target_": "mine.Mark"}
    folder = forged(lambda c: None, lambda c: c["callbacks"].update(mine=mine))
    assert_refused(typed("train", f"resume={folder}"), "names mine.Mark", "trust=[mine]")
    assert not (tmp_path / "ran").exists()
    code, _, err = typed("train", f"resume={folder}", "trust=[mine]", "trainer.max_epochs=1")
    assert code == 0, err
    assert (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "- 1", "a: [", "a: 1", "!!python/object/apply:os.system [x]"])
def test_a_file_that_is_no_configuration(forged, typed, text):
    folder = forged(lambda config: None)
    (folder / ".hydra" / "config.yaml").write_text(text)
    code, out, err = typed("train", f"resume={folder}", "trainer.max_epochs=1")
    assert code == 0, err
    assert "config.yaml" in out and "using the checkpoint's configuration" in out
    shutil.rmtree(folder / "checkpoints")
    (folder / "metrics.json").unlink()
    assert_refused(typed("train", f"resume={folder}"), "config.yaml", "start a new run")


def test_a_checkpoint_cannot_bring_a_network_of_its_own(forged, typed, tmp_path):
    """A run that began with init_from= takes its network's configuration from the checkpoint."""
    bring = {"init_from": "gone", "network": CALL}
    folder = forged(lambda c: c.update(init_from="gone"), lambda c: c.update(bring))
    assert_refused(typed("train", f"resume={folder}", "trainer.max_epochs=2"), "names os.system")
    assert not list(tmp_path.rglob("ran"))

"""The configuration of a run: that of the checkpoint, with the paths of today."""

import pytest
from omegaconf import OmegaConf

from diffusion_lab.runs.saved_config import merge

TRAINED = {
    "command": {"overrides": ["a=${b}"], "choices": {"model": "flow"}},
    "model": {"network": {"width": 8}, "rate": 0.1},
    "network": {"width": 8},
    "paths": {"output_dir": "/then/run", "data_dir": "/then/data"},
    "data": {"data_dir": "/then/data", "source": "full"},
    "trainer": {"default_root_dir": "/then/run", "precision": "bf16-mixed", "max_epochs": 5},
    "seed": 3,
}
WRITTEN = {
    "command": {"overrides": "${hydra:overrides.task}", "choices": "${hydra:runtime.choices}"},
    "model": {"network": "${network}", "rate": 0.1},
    "network": {"width": 8},
    "paths": {"output_dir": "${hydra:runtime.output_dir}", "data_dir": "${oc.env:NOWHERE,data}"},
    "data": {"data_dir": "${paths.data_dir}", "source": "auto"},
    "trainer": {"default_root_dir": "${paths.output_dir}", "precision": "auto", "max_epochs": 5},
    "seed": 3,
}


def merged(**changes):
    return merge(OmegaConf.merge(WRITTEN, changes), TRAINED)


def test_merge_takes_current_paths_and_saved_settings():
    config, keys = merged()
    assert keys == []
    config.paths.output_dir = "/now"
    config.paths.data_dir = "/now/data"
    plain = OmegaConf.to_container(config, resolve=True)
    assert plain["trainer"]["default_root_dir"] == "/now"
    assert plain["data"]["data_dir"] == "/now/data"
    assert plain["trainer"]["precision"] == "bf16-mixed" and plain["data"]["source"] == "full"
    assert plain["command"]["overrides"] == ["a=${b}"]  # a text, and no reference


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"network": {"width": 4}}, ["network.width"]),  # not the keys that refer to it
        ({"seed": 4, "extra": {"a": 1}}, ["seed", "extra"]),
        ({"trainer": {"max_epochs": 9}}, ["trainer.max_epochs"]),
        ({"model": {"network": {"width": 4}}}, ["model.network.width"]),
        ({"network": "${nothing.there}"}, ["model.network", "network"]),
    ],
)
def test_merge_keeps_the_checkpoints_values_and_lists_the_differing_keys(changes, expected):
    config, keys = merged(**changes)
    assert keys == expected
    config.paths.output_dir, config.paths.data_dir = "/then/run", "/then/data"
    assert OmegaConf.to_container(config, resolve=True) == TRAINED

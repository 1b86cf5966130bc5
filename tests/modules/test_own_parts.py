"""User-defined parts that do not exist or have another kind are rejected before training."""

import pytest

from diffusion_lab import compose_config, train
from diffusion_lab.errors import UserError
from tests.conftest import RUN

WORDS = [word for word in RUN if not word.startswith(("network", "sampler", "callbacks"))]


@pytest.mark.parametrize(
    ("group", "content", "told"),
    [
        (
            "network",
            "width: 8",
            "network names no class: add a line with the class to its YAML file",
        ),
        ("sampler", "num_steps: 2", "sampler names no class"),
        ("prediction", "a: 1", "prediction names no class"),
        (
            "network",
            "_target_: diffusion_lab.diffusion.Flow",
            "network: .*Flow is no Module",
        ),
        ("weighting", "_target_: diffusion_lab.diffusion.Flow", "Flow is no Weighting"),
        ("sampler", "_target_: diffusion_lab.diffusion.Flow", "builds a Flow: expected a diffus"),
        (
            "callbacks",
            "mine: {_target_: diffusion_lab.diffusion.Flow}",
            "callbacks: diffusion_lab.diffusion.prediction.Flow is no lightning.Callback",
        ),
    ],
)
def test_part_of_another_kind_is_rejected(group, content, told, tmp_path, monkeypatch):
    folder = tmp_path / "configs" / group
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"{content}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told) as error:
        train(compose_config([*WORDS, f"{group}=mine"], tmp_path / "run"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_network_without_parameters_is_rejected(tmp_path, monkeypatch):
    """Layers in a plain list are none of a module's parameters."""
    folder = tmp_path / "configs" / "network"
    folder.mkdir(parents=True)
    (folder / "nothing.yaml").write_text("_target_: torch.nn.Identity\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no parameters to train: .*ModuleList"):
        train(compose_config([*WORDS, "network=nothing"], tmp_path / "run"))

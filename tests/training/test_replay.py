"""Replay of a non-finite step: bit-identical numbers."""

import json

import numpy as np
import pytest
import torch

from diffusion_lab.errors import Diverged
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.training.replay import replay
from tests.conftest import last_line
from tests.support.poison import Poison, train_with


@pytest.fixture
def overflown(tmp_path, monkeypatch):
    """Train with an image whose square overflows; return the folder and the batch's losses."""

    def run(*overrides, value=1e25):
        torch.set_num_threads(1)
        losses = []
        losses_of = DiffusionModule.losses

        def losses_kept(self, *args):
            error, loss = losses_of(self, *args)
            losses.append(loss)
            return error, loss

        with monkeypatch.context() as patch:
            patch.setattr(DiffusionModule, "losses", losses_kept)
            with pytest.raises(Diverged, match="the loss is nan"):
                train_with(Poison(2, value=value), tmp_path / "run", *overrides)
        return tmp_path / "run", losses[-1].tolist()

    return run


@pytest.mark.slow
def test_replay_in_a_new_process_is_bit_identical(overflown, tmp_path, command):
    """Every image's loss has the same bits, and the run folder is unchanged."""
    folder, losses = overflown()
    before = sorted(folder.rglob("*"))
    replayed = f"replay={folder / 'anomaly.pt'}"
    out = last_line(command("train", "debug=replay", replayed, OMP_NUM_THREADS="1"))
    assert out.parent == tmp_path / "logs" / "replays"
    seen = json.loads((out / "replay.json").read_text())
    assert [repr(float(loss)) for loss in seen["losses"]] == [repr(loss) for loss in losses]
    assert np.isfinite(losses).sum() == 3
    assert seen["loss"] == "nan" and seen["same"] is True
    assert seen["first"].startswith("the output of network.")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "value"), [("64-true", 1e200), ("bf16-mixed", 1e25), ("bf16-true", 1e25)]
)
def test_replay_is_bit_identical_in_every_precision(overflown, precision, value):
    folder, losses = overflown(f"trainer.precision={precision}", value=value)
    seen = replay(folder / "anomaly.pt")
    assert list(map(repr, seen.losses)) == list(map(repr, losses))
    assert np.isfinite(losses).sum() == 3 and seen.same

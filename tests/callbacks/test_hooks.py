"""Hooks of the user's own callbacks: their arguments are checked, their failures told."""

from pathlib import Path

import lightning as L
import pytest

from diffusion_lab.callbacks.ema import EMA
from diffusion_lab.callbacks.hooks import check_hooks, told_in_a_line
from diffusion_lab.errors import UserError

FILE = Path(__file__).relative_to(Path.cwd())


class Good(L.Callback):
    def setup(self, trainer, pl_module, stage):
        pass

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        pass

    def state_dict(self):
        return {}


class TooFew(L.Callback):
    def on_train_batch_end(self, trainer, pl_module):
        pass


class OtherName(L.Callback):
    def setup(self, trainer, pl_module, phase):
        pass


class Fails(L.Callback):
    def setup(self, trainer, pl_module, stage):
        {}["nothing"]


def test_hooks_take_what_lightning_gives():
    check_hooks(Good())
    with pytest.raises(UserError, match=r"TooFew.on_train_batch_end.*outputs, batch, batch_idx"):
        check_hooks(TooFew())
    with pytest.raises(UserError, match=r"OtherName.setup.*expected setup.*stage"):
        check_hooks(OtherName())
    check_hooks(EMA())


def test_a_failing_hook_is_told_in_a_line():
    told = rf"callbacks: .*test_hooks.Fails.setup failed at {FILE}:\d+: KeyError: 'nothing'"
    callback = Fails()
    with pytest.raises(UserError, match=told), told_in_a_line([callback]):
        callback.setup(None, None, "fit")
    with pytest.raises(KeyError), told_in_a_line([]):
        callback.setup(None, None, "fit")

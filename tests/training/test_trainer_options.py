"""Options of the Trainer: accepted, or rejected in one line before any long work."""

import pytest
from lightning.pytorch.loops import _FitLoop
from omegaconf import OmegaConf

from diffusion_lab import compose_config, train
from diffusion_lab.config.error_message import one_line
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY
from tests.support.forked import ROOT

# 5 batches to train on, 1 to validate on
FIVE = [w for w in TINY[:-2] if "limit_" not in w]
FIVE += ["callbacks=none", "logger=[]", "model=flow", "network.width=8", "network.depth=1"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["val_check_interval=25"], ["val_check_interval=25", "an epoch has 5 batches", "null"]),
        (["val_check_interval=6", "limit_train_batches=5"], ["an epoch has 5 batches"]),
        (["val_check_interval=3", "limit_train_batches=0.4"], ["an epoch has 2 batches"]),
        (["val_check_interval=3", "overfit_batches=2"], ["an epoch has 2 batches"]),
        (["val_check_interval=0"], ["val_check_interval=0", "limit_val_batches=0"]),
        (["val_check_interval=0.0"], ["val_check_interval=0.0"]),
        (["val_check_interval=true"], ["val_check_interval=True"]),
        (["val_check_interval=[1]"], ["val_check_interval=[1]"]),
        (["val_check_interval=00:00:00:00"], ["val_check_interval=00:00:00:00"]),
        (["check_val_every_n_epoch=0"], ["check_val_every_n_epoch=0", "at least 1"]),
        (["check_val_every_n_epoch=-1"], ["check_val_every_n_epoch=-1", "at least 1"]),
        (["limit_train_batches=0.1"], ["limit_train_batches=0.1 leaves none of 5 batches", "0.2"]),
        (["limit_val_batches=0.5"], ["limit_val_batches=0.5 leaves none of 1 batches"]),
        (["overfit_batches=0.1"], ["overfit_batches=0.1 leaves none of 5 batches"]),
        (["accumulate_grad_batches=0"], ["accumulate_grad_batches=0", "at least 1"]),
        (["accumulate_grad_batches=-1"], ["accumulate_grad_batches=-1", "at least 1"]),
        (["num_sanity_val_steps=-2"], ["num_sanity_val_steps=-2", "at least -1"]),
        (["log_every_n_steps=-1"], ["log_every_n_steps=-1", "at least 0"]),
        (["num_nodes=0"], ["num_nodes=0", "at least 1"]),
        (["max_epochs=null"], ["max_epochs=null", "1,000 epochs"]),
        (["strategy=null"], ["strategy=None"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_invalid_option_is_rejected(overrides, told, typed, monkeypatch):
    monkeypatch.setattr(_FitLoop, "run", lambda *_: pytest.fail("the training has begun"))
    assert_refused(typed("train", *FIVE, *(f"trainer.{word}" for word in overrides)), *told)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "validations"),
    [
        (["val_check_interval=5"], 1),
        (["val_check_interval=2"], 2),
        (["val_check_interval=0.4"], 2),
        (["val_check_interval=25", "check_val_every_n_epoch=null", "max_epochs=5"], 1),
        (["val_check_interval=25", "limit_val_batches=0"], 0),
        (["limit_train_batches=0.2"], 1),
        (["check_val_every_n_epoch=2", "max_epochs=2"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_option_at_its_limit_is_accepted(overrides, validations, tmp_path, monkeypatch):
    from diffusion_lab.modules import DiffusionModule

    counted = []
    monkeypatch.setattr(DiffusionModule, "on_validation_epoch_end", lambda _: counted.append(1))
    train(compose_config([*FIVE, *(f"trainer.{word}" for word in overrides)], tmp_path / "run"))
    assert len(counted) == validations


OPTIONS = OmegaConf.load(ROOT / "configs" / "trainer" / "default.yaml").keys()
LONG = ("_target_", "compile", "compile_mode", "devices", "default_root_dir")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in LONG])
def test_no_option_value_ends_in_a_traceback(name, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion_lab.system.git.git_commit", lambda: None)
    bounds = ["trainer.max_steps=1"] if name != "max_steps" else []
    cfg = compose_config([*FIVE, *bounds])
    for number, value in enumerate([0, -1, 1.5, 10**6, "x", None, [1]]):
        if name == "max_steps" and value in (10**6, -1, None):
            continue
        tried = cfg.copy()
        tried.paths.output_dir = str(tmp_path / str(number))
        tried.trainer[name] = value
        if name == "num_nodes" and value == 10**6:  # would wait for them
            continue
        try:
            train(tried)
        except Exception as error:
            if (line := one_line(error)) is None:
                raise
            assert "\n" not in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["trainer.max_epochs=2", "trainer.max_steps=99"], 4),
        (["trainer.max_epochs=2", "trainer.max_steps=99", "trainer.accumulate_grad_batches=2"], 2),
        (["trainer.max_epochs=2", "trainer.max_steps=4"], None),
        (["trainer.max_epochs=-1", "trainer.max_steps=3"], None),
        (["trainer.max_epochs=1"], None),
    ],
)
def test_unreachable_limit_logs_a_warning(words, steps, tmp_path, caplog):
    given = [w for w in TINY if not w.startswith("trainer.max_epochs")]
    result = train(compose_config([*given, "trainer.limit_train_batches=2", *words], tmp_path))
    lines = [r.getMessage() for r in caplog.records if "ends the training after" in r.getMessage()]
    assert len(lines) == (steps is not None)
    if steps is not None:
        assert f"after {steps} steps" in lines[0] and result.trainer.global_step == steps

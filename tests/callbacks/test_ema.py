"""EMA of the weights: equal to its formula, and kept apart from the trained weights."""

import lightning as L
import pytest
import torch
from diffusers.training_utils import EMAModel

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.callbacks import EMA
from diffusion_lab.callbacks.ema import averaged
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY

FLOW = (*TINY, "model=flow", "network.width=8")


class Record(L.Callback):
    """Record the weights after every step and those used in validation."""

    def __init__(self):
        self.after_steps, self.validated = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.after_steps.append({n: p.detach().clone() for n, p in pl_module.named_parameters()})

    def on_validation_batch_start(self, trainer, pl_module, *args):
        self.validated.append({n: p.detach().clone() for n, p in pl_module.named_parameters()})


def by_hand(initial, after_steps, decay):
    average = {name: value.double() for name, value in initial.items()}
    for n, weights in enumerate(after_steps, start=1):
        d = min(decay, (1 + n) / (10 + n))
        average = {k: d * a + (1 - d) * weights[k].double() for k, a in average.items()}
    return {name: value.float() for name, value in average.items()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Train for eight steps and record the weights."""
    folder = tmp_path_factory.mktemp("ema")
    record = Record()
    cfg = compose_config(
        [*FLOW, "trainer.limit_train_batches=5", "trainer.max_epochs=2", "callbacks.ema.decay=0.5"],
        folder,
    )
    initial = {}
    build = EMA.on_fit_start

    def on_fit_start(self, trainer, pl_module):
        initial.update({n: p.detach().clone() for n, p in pl_module.named_parameters()})
        trainer.callbacks.append(record)
        build(self, trainer, pl_module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EMA, "on_fit_start", on_fit_start)
        result = train(cfg)
    return folder, initial, record, result


@pytest.mark.slow
def test_average_follows_the_formula(recorded):
    folder, initial, record, _ = recorded
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert len(record.after_steps) == 10 and state["ema"]["steps"] == 10
    expected = by_hand(initial, record.after_steps, decay=0.5)
    assert state["ema"]["weights"].keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state["ema"]["weights"][name], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(state["state_dict"][name], record.after_steps[-1][name])


def test_average_is_diffusers_ema_one_step_ahead(recorded):
    """EMAModel, stepped on the first weights before the training, decays alike from then on."""
    folder, initial, record, _ = recorded
    theirs = EMAModel([value.clone() for value in initial.values()], decay=0.5)
    late = EMAModel([value.clone() for value in initial.values()], decay=0.5)
    theirs.step(list(map(torch.nn.Parameter, initial.values())))
    for n, weights in enumerate(record.after_steps, start=1):
        parameters = [torch.nn.Parameter(value) for value in weights.values()]
        theirs.step(parameters)
        late.step(parameters)
        assert theirs.cur_decay_value == min(0.5, (1 + n) / (10 + n))
        assert late.cur_decay_value == (min(0.5, n / (9 + n)) if n > 1 else 0)
    average = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["ema"]["weights"]
    for value, same, other in zip(
        average.values(), theirs.shadow_params, late.shadow_params, strict=True
    ):
        torch.testing.assert_close(value, same, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(value, other, rtol=1e-5, atol=1e-6) or not value.any()


def test_validation_uses_the_average_and_training_the_weights(recorded):
    _, initial, record, result = recorded
    # the last look is at the end of the run, after all ten steps
    expected = by_hand(initial, record.after_steps, decay=0.5)
    for name, value in result.module.named_parameters():
        torch.testing.assert_close(record.validated[-1][name], expected[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(value, record.after_steps[-1][name])


@pytest.mark.slow
def test_training_is_the_same_with_and_without(tmp_path):
    results = [
        train(compose_config([*FLOW, f"callbacks.ema{setting}"], tmp_path / str(i)))
        for i, setting in enumerate(("=null", ".decay=0.9"))
    ]
    for a, b in zip(*(r.module.parameters() for r in results), strict=True):
        assert torch.equal(a, b)


def test_loading_uses_the_average_by_default(recorded, tmp_path):
    folder, *_ = recorded
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    for weights, expected in (
        (None, state["ema"]["weights"]),
        ("ema", state["ema"]["weights"]),
        ("raw", state["state_dict"]),
    ):
        run = load_run(folder, weights=weights)
        assert run.weights == (weights or "ema")
        for name, value in run.module.named_parameters():
            assert torch.equal(value, expected[name])
    train(compose_config([*FLOW, "callbacks.ema=null"], tmp_path / "raw"))
    assert load_run(tmp_path / "raw").weights == "raw"


def test_sampling_reports_its_weights_and_rejects_missing_ones(tmp_path, typed):
    train(compose_config([*FLOW, "callbacks.ema=null"], tmp_path / "run"))
    assert_refused(
        typed("sample", f"run={tmp_path / 'run'}", "weights=ema"), "weights=ema", "has raw"
    )


def test_stop_in_validation_restores_the_trained_weights(tmp_path):
    class Stop(L.Callback):
        def on_validation_start(self, trainer, pl_module):
            self.module = pl_module

        def on_validation_batch_start(self, trainer, pl_module, *args):
            if trainer.current_epoch == 1:
                self.average = {n: p.detach().clone() for n, p in pl_module.named_parameters()}
                raise RuntimeError("stopped")

    stop, cfg = Stop(), compose_config([*FLOW, "trainer.max_epochs=2"], tmp_path)
    begin = EMA.on_fit_start

    def on_fit_start(self, trainer, pl_module):
        trainer.callbacks.insert(-1, stop)
        begin(self, trainer, pl_module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EMA, "on_fit_start", on_fit_start)
        with pytest.raises(RuntimeError, match="stopped"):
            train(cfg)
    now = dict(stop.module.named_parameters())
    assert any(not torch.equal(now[name], value) for name, value in stop.average.items())
    state = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert state["ema"]["steps"] == state["global_step"] == 2  # of the epoch before


def test_average_resumes_from_a_checkpoint(recorded):
    folder, *_ = recorded
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    ema, module = EMA(), load_run(folder, weights="raw").module
    trainer = L.Trainer(logger=False, enable_checkpointing=False, callbacks=[ema])
    ema.on_load_checkpoint(trainer, module, state)
    ema.on_fit_start(trainer, module)
    with averaged(trainer, module):
        for name, value in module.named_parameters():
            assert torch.equal(value, state["ema"]["weights"][name])
    for name, value in module.named_parameters():
        assert torch.equal(value, state["state_dict"][name])
    assert ema.steps == 10


@pytest.mark.slow
def test_half_precision_averages_in_float32(tmp_path):
    train(compose_config([*FLOW, "trainer.precision=bf16-true"], tmp_path))
    state = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert {value.dtype for value in state["ema"]["weights"].values()} == {torch.float32}
    assert load_run(tmp_path).sample(2, num_steps=2).shape == (2, 1, 28, 28)


def test_decay_of_one_is_rejected(typed):
    assert_refused(typed("train", *FLOW, "callbacks.ema.decay=1"), "callbacks.ema.decay=1")

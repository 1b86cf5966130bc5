"""bfloat16 where the processor has it, and nowhere by itself."""

import json

import pytest
import torch

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.system import precision
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY, last_line


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32 only"])
def processor(request, monkeypatch):
    """One that has the instructions, one that has not."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param)
    return "bf16-mixed" if request.param else "32-true"


def test_auto_is_what_the_processor_has(processor, tmp_path):
    words = [*TINY, "trainer.precision=auto", "trainer.accelerator=cpu"]
    result = train(compose_config(words, tmp_path / "run"))
    assert result.trainer.precision == processor
    assert json.loads((tmp_path / "run/metrics.json").read_text())["precision"] == processor
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert state["config"]["trainer"]["precision"] == processor
    assert {p.dtype for p in result.module.parameters()} == {torch.float32}


def test_a_run_taken_up_keeps_its_precision(tmp_path, monkeypatch):
    words = [*TINY, "trainer.precision=auto", "trainer.accelerator=cpu"]
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    train(compose_config(words, tmp_path / "run"))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    again = compose_config([*words, "trainer.max_epochs=5"], tmp_path / "run")
    assert train(again, resume=True).trainer.precision == "bf16-mixed"


def test_without_auto_nothing_is_narrowed(processor):
    assert precision.chosen_precision("32-true", torch.device("cpu")) == "32-true"
    assert precision.chosen_precision("16-mixed", torch.device("cpu")) == "16-mixed"
    assert precision.chosen_precision("auto", torch.device("mps")) == "32-true"


def test_an_accelerator_that_is_not_there(typed):
    refused = typed("train", *TINY, "trainer.precision=auto", "trainer.accelerator=gpu")
    assert_refused(refused, "gpu", "trainer.accelerator=cpu")


def test_samples_in_bfloat16_are_nearly_those_in_float32(runs, command, tmp_path):
    drawn = {}
    for name in ("32-true", "bf16-mixed"):
        out = tmp_path / name
        words = (f"run={runs['conditional']}", "num_samples=6", f"precision={name}", f"out={out}")
        last_line(command("sample", *words))
        assert json.loads((out / "samples.json").read_text())["precision"] == name
        drawn[name] = load_pixels(out)
    difference = (drawn["32-true"] - drawn["bf16-mixed"]).abs()
    assert difference.max() > 0
    assert difference.mean() < 4


def load_pixels(out):
    import numpy as np

    with np.load(out / "samples.npz") as arrays:
        return torch.from_numpy(arrays["images"]).float()


@pytest.mark.parametrize("name", ["sample", "evaluate"])
def test_a_precision_that_is_none(name, runs, typed):
    refused = typed(name, f"run={runs['conditional']}", "precision=8")
    assert_refused(refused, "precision=8: expected 32-true, bf16-mixed or auto")


def test_load_run_of_a_narrow_run_draws_in_float32(tmp_path):
    words = [*TINY, "trainer.precision=bf16-mixed", "trainer.accelerator=cpu"]
    train(compose_config(words, tmp_path / "run"))
    run = load_run(tmp_path / "run")
    with torch.no_grad():
        out = run.module(torch.zeros(2, *run.image_shape), torch.full((2,), 0.5))
    assert out.dtype == torch.float32

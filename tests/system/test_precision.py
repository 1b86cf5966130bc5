"""Precision: auto chooses bfloat16 if the processor supports it; never without auto."""

import json

import pytest
import torch

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.system import precision
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY, last_line


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32 only"])
def processor(request, monkeypatch):
    """Simulate a processor with, then without, bfloat16 instructions; return auto's precision."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param)
    return "bf16-mixed" if request.param else "32-true"


def test_auto_depends_on_the_processor(processor, tmp_path):
    overrides = [*TINY, "trainer.precision=auto", "trainer.accelerator=cpu"]
    result = train(compose_config(overrides, tmp_path / "run"))
    assert result.trainer.precision == processor
    assert json.loads((tmp_path / "run/metrics.json").read_text())["precision"] == processor
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert state["config"]["trainer"]["precision"] == processor
    assert {p.dtype for p in result.module.parameters()} == {torch.float32}


@pytest.mark.slow
def test_a_resumed_run_keeps_its_precision(tmp_path, monkeypatch):
    overrides = [*TINY, "trainer.precision=auto", "trainer.accelerator=cpu"]
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    train(compose_config(overrides, tmp_path / "run"))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    again = compose_config([*overrides, "trainer.max_epochs=5"], tmp_path / "run")
    assert train(again, resume=True).trainer.precision == "bf16-mixed"


def test_precision_changes_only_with_auto(processor):
    assert precision.chosen_precision("32-true", torch.device("cpu")) == "32-true"
    assert precision.chosen_precision("16-mixed", torch.device("cpu")) == "16-mixed"
    assert precision.chosen_precision("auto", torch.device("mps")) == "32-true"


def test_a_missing_accelerator_is_rejected(typed):
    refused = typed("train", *TINY, "trainer.precision=auto", "trainer.accelerator=gpu")
    assert_refused(refused, "gpu", "trainer.accelerator=cpu")


@pytest.mark.slow
def test_samples_in_bfloat16_are_close_to_float32(runs, command, tmp_path):
    pixels = {}
    for name in ("32-true", "bf16-mixed"):
        out = tmp_path / name
        overrides = (
            f"run={runs['conditional']}",
            "num_samples=6",
            f"precision={name}",
            f"out={out}",
        )
        last_line(command("sample", *overrides))
        assert json.loads((out / "samples.json").read_text())["precision"] == name
        pixels[name] = load_pixels(out)
    difference = (pixels["32-true"] - pixels["bf16-mixed"]).abs()
    assert difference.max() > 0
    assert difference.mean() < 4


def load_pixels(out):
    import numpy as np

    with np.load(out / "samples.npz") as arrays:
        return torch.from_numpy(arrays["images"]).float()


@pytest.mark.parametrize("name", ["sample", "evaluate"])
def test_an_unknown_precision_is_rejected(name, runs, typed):
    refused = typed(name, f"run={runs['conditional']}", "precision=8")
    assert_refused(refused, "precision=8: expected 32-true, bf16-mixed or auto")


def test_a_bfloat16_run_is_loaded_in_float32(tmp_path):
    overrides = [*TINY, "trainer.precision=bf16-mixed", "trainer.accelerator=cpu"]
    train(compose_config(overrides, tmp_path / "run"))
    run = load_run(tmp_path / "run")
    with torch.no_grad():
        out = run.module(torch.zeros(2, *run.image_shape), torch.full((2,), 0.5))
    assert out.dtype == torch.float32

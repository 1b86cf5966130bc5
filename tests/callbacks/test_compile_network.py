"""trainer.compile: compiles once and in place, and changes nothing else in a run."""

import logging
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from diffusion_lab import compose_config, load_run, train
from tests.cli.test_bad_input import assert_refused
from tests.conftest import PICTURED
from tests.support.poison import checkpoint

# batches of 8, 8 and 4 images, validation, samples and figures of other sizes still
RUN = (
    *PICTURED,
    "network.channels=[4,4]",
    "data.batch_size=8",
    "trainer.limit_train_batches=3",
    "trainer.max_epochs=2",
    "trainer.num_sanity_val_steps=1",  # before the first step
)


@pytest.fixture
def graphs(monkeypatch):
    """Batch sizes compiled by a compiler that returns the graph unchanged."""
    found = []

    def backend(graph, inputs):
        found.append([x.shape[0] for x in inputs if isinstance(x, torch.Tensor) and x.ndim == 4])
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    yield found
    torch._dynamo.reset()


@pytest.mark.slow
def test_only_full_training_batches_are_compiled_and_once(graphs, tmp_path, caplog):
    plain = train(compose_config(RUN, tmp_path / "plain"))
    assert graphs == []
    with caplog.at_level(logging.INFO):
        result = train(compose_config([*RUN, "trainer.compile=true"], tmp_path / "compiled"))
    assert len(graphs) == 2 and graphs[0] == []  # the first is the trial of the compiler
    assert 8 in graphs[1]
    assert sum(r.message.startswith("compiled in ") for r in caplog.records) == 1
    assert result.module.state_dict().keys() == plain.module.state_dict().keys()
    assert checkpoint(tmp_path / "compiled").keys() == checkpoint(tmp_path / "plain").keys()
    for a, b in zip(result.module.parameters(), plain.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert load_run(tmp_path / "compiled").sample(2).shape == (2, 1, 28, 28)


@pytest.mark.slow
def test_run_resumes_without_compilation(graphs, tmp_path):
    train(compose_config([*RUN, "trainer.compile=true", "trainer.max_epochs=1"], tmp_path))
    resumed = train(compose_config([*RUN, "trainer.compile=true"], tmp_path), resume=True)
    assert resumed.trainer.global_step == 6
    again = train(compose_config([*RUN, "trainer.max_epochs=3"], tmp_path), resume=True)
    assert again.trainer.global_step == 9


@pytest.mark.slow
def test_real_compiler(tmp_path):
    plain = train(compose_config(RUN, tmp_path / "plain"))
    torch._dynamo.reset()
    counters.clear()
    result = train(compose_config([*RUN, "trainer.compile=true"], tmp_path / "compiled"))
    assert counters["stats"]["unique_graphs"] == 2  # with the trial of the compiler
    for a, b in zip(result.module.parameters(), plain.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_missing_compiler_is_one_line_before_training(typed, monkeypatch):
    def nothing_there(*args, **kwargs):
        def call(*args):
            raise RuntimeError("No working C++ compiler found\nand where it was looked for")

        return call

    monkeypatch.setattr(torch, "compile", nothing_there)
    assert_refused(
        typed("train", *RUN, "trainer.compile=true"),
        "trainer.compile=true",
        "No working C++ compiler found",
        "g++",
    )


def test_compile_must_be_true_or_false(typed):
    assert_refused(
        typed("train", *RUN, "trainer.compile=fast"), "trainer.compile=fast", "true or false"
    )

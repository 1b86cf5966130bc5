"""Whatever is in a file or in a setting: what was asked for, or a refusal in one line."""

import tracemalloc

import lightning as L
import numpy as np
import pytest
from omegaconf import OmegaConf

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from diffusion_lab import compose_config, train
from diffusion_lab.config.error_message import one_line
from diffusion_lab.data.mnist.idx import idx_header, read_idx
from diffusion_lab.errors import UserError
from tests.conftest import TINY

SHAPE = (3, 4, 5)
PIXELS = bytes(range(60))

the_same = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def headers():
    """The right one with some bytes changed, cut or added, and any bytes at all."""
    right = idx_header(SHAPE)
    changed = st.lists(
        st.tuples(st.integers(0, len(right) - 1), st.integers(0, 255)), max_size=3
    ).map(lambda edits: bytes(dict(edits).get(k, byte) for k, byte in enumerate(right)))
    lengths = st.lists(st.sampled_from([0, 1, 5, 2**31 - 1, 2**31, 2**32 - 1]), max_size=5)
    crafted = lengths.map(lambda held: idx_header(tuple(held)))
    return st.one_of(changed, crafted, st.binary(max_size=24))


@settings(the_same, max_examples=150)
@given(head=headers(), body=st.sampled_from([PIXELS, b"", PIXELS[:-1], PIXELS * 2]))
@example(head=idx_header(SHAPE), body=PIXELS)
def test_an_idx_file_is_right_or_refused(tmp_path_factory, head, body):
    path = tmp_path_factory.getbasetemp() / "any.idx"
    path.write_bytes(head + body)
    right = head + body == idx_header(SHAPE) + PIXELS
    line = ""
    tracemalloc.start()
    try:
        array = read_idx(path, SHAPE)
    except UserError as error:
        line = str(error)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if right:
        assert np.array_equal(array.ravel(), np.frombuffer(PIXELS, np.uint8))
    else:
        assert str(path) in line and "\n" not in line
    assert peak < 200_000


# what takes memory by its size, and so gets small numbers here
SIZES = (
    "data.num_images",
    "data.image_size",
    "data.channels",
    "network.width",
    "network.depth",
    "noise_schedule.num_train_timesteps",
    "noise_schedule.beta_timesteps",
    "sampler.num_steps",
)
SETTINGS = (
    "seed",
    "monitor",
    "init_from",
    "data.name",
    "data.source",
    "data.batch_size",
    "data.val_size",
    "data.train_size",
    "data.value_range",
    "noise_schedule.beta_start",
    "noise_schedule.beta_schedule",
    "model.num_classes",
    "model.label_dropout",
    "optimizer.lr",
    "optimizer.betas",
    "sampler.eta",
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.precision",
    "trainer.devices",
    "trainer.gradient_clip_val",
    "trainer.log_every_n_steps",
    "callbacks.ema.decay",
    "callbacks.samples.num_samples",
    "callbacks.samples.every_n_epochs",
)
words = st.one_of(st.sampled_from(["", "auto", "mnist", "nan", "../x", "1e3"]), st.text(max_size=5))
small = st.one_of(st.integers(-3, 40), st.floats(-3, 40), st.none(), words)
anything = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30]),
    st.floats(),
    st.booleans(),
    st.none(),
    words,
    st.lists(st.floats(-1, 2), max_size=3),
)
settings_of_a_run = st.one_of(
    st.tuples(st.sampled_from(SETTINGS), anything), st.tuples(st.sampled_from(SIZES), small)
)


@pytest.fixture(scope="module")
def composed():
    more = ("model=ddpm", "network=unet_fast", "network.width=8", "network.depth=1", "logger=csv")
    return compose_config([*TINY, *more])


@pytest.mark.slow
@settings(the_same, max_examples=60)
@given(setting=settings_of_a_run)
@example(setting=("monitor", "\n\x1b[2J"))
@example(setting=("optimizer.betas", [0.9]))
@example(setting=("data.num_images", 10**14))
def test_a_setting_is_taken_or_refused(composed, tmp_path_factory, setting):
    """Everything up to the first step."""
    name, value = setting
    cfg = composed.copy()
    cfg.paths.output_dir = str(tmp_path_factory.getbasetemp() / "any_run")
    cfg.paths.data_dir = cfg.paths.output_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(L.Trainer, "fit", lambda *_, **__: None)
        patch.setattr("diffusion_lab.system.git.git_commit", lambda: None)
        patch.setattr("diffusion_lab.data.sources.published.download_missing", _no_network)
        line: str | None = "taken"
        try:
            OmegaConf.update(cfg, name, value)
            train(cfg)
        except Exception as error:
            line = one_line(error)
            if line is None:
                raise
        assert line and "\n" not in line


def _no_network(*_: object) -> None:
    raise UserError("no network here")

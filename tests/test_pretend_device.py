"""No step of a training waits for a GPU: shown on a device that has no values to wait for."""

import json
import subprocess
import sys

import pytest
import torch.utils.backend_registration as backends

from tests.forked import ROOT

pytestmark = pytest.mark.skipif(
    not hasattr(backends, "_setup_privateuseone_for_python_backend"),
    reason="this torch takes no device written in Python",
)
EVERY_MODEL = [
    "model=basic_unet",
    "model=unet2d",
    "model=ddpm",
    "model=flow",
    "model=score_matching",
    "model=edm",
    "model=flow optimizer=muon lr_scheduler=cosine trainer.gradient_clip_val=1.0",
    "model=flow weighting=edm callbacks=loss_by_noise",
    "model=ddpm model.num_classes=10 weighting=min_snr time_sampling=stratified",
    "model=flow optimizer=adamw callbacks=post_hoc_ema time_sampling=logit_normal_noisy",
    "model=flow callbacks.progress.seconds=0",  # a line a step
    "model=flow model.clipped_to=minus_one_one time_sampling=noise_end",
]
ON_DEVICE = "model=flow data.on_device=true"
UNGUARDED = "model=flow data.on_device=true callbacks.finite_loss=null"
LOOKS = "model=flow trainer.log_every_n_steps=1"
MATCHES = "model=flow pairing=optimal_transport"


@pytest.fixture(scope="module")
def copies():
    """What each training copied between device and CPU in its steps, or the error it ended with."""
    words = [*EVERY_MODEL, ON_DEVICE, UNGUARDED, LOOKS, MATCHES]
    command = [sys.executable, "-m", "tests.pretend_device", *words]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def to_device(step):
    return [copy for copy in step if copy[1] == "pretend"]


def from_device(step):
    return [copy for copy in step if copy[0] == "pretend"]


@pytest.mark.parametrize("words", EVERY_MODEL)
def test_only_batches_and_the_verdict_travel_and_are_not_waited_for(copies, words):
    _, *steps = copies[words]  # the first may bring a table along
    assert len(steps) == 3
    for step in steps:
        assert [copy[2] for copy in to_device(step)] == [8 * 28 * 28, 8]
        ((*_, numbers, _),) = from_device(step)
        assert numbers < 1000  # a norm for each weight
        assert all(non_blocking for *_, non_blocking in step)


def test_images_on_the_device_are_moved_once(copies):
    first, *others = copies[ON_DEVICE]
    assert sorted(copy[2] for copy in to_device(first)) == [48, 48, 48 * 28 * 28]
    assert all(to_device(step) == [] for step in others)


def test_without_finite_loss_nothing_travels(copies):
    assert copies[UNGUARDED][1:] == [[], [], []]


@pytest.mark.parametrize(("words", "error"), [(LOOKS, "DataDependent"), (MATCHES, ".numpy()")])
def test_what_does_wait_is_seen(copies, words, error):
    """Logging in every step reads the loss; optimal transport is solved on the CPU."""
    assert error in copies[words]

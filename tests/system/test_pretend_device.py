"""Errors and synchronization on a GPU, observed on the simulated device of pretend_device.py."""

import json
import subprocess
import sys

import pytest
import torch.utils.backend_registration as backends

from tests.support.forked import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(backends, "_setup_privateuseone_for_python_backend"),
        reason="this torch takes no device written in Python",
    ),
]
DATA = "data=fake data.num_images=56 data.val_size=8 data.batch_size=8 trainer.max_epochs=1"
SMALL = "trainer.log_every_n_steps=100 sampler.num_steps=2"
FEW = "callbacks.samples.num_samples=2 callbacks.figures.num_samples=2"
UNET2D = (
    "network.block_out_channels=[8,8] network.down_block_types=[DownBlock2D,AttnDownBlock2D] "
    "network.up_block_types=[AttnUpBlock2D,UpBlock2D] network.norm_num_groups=4 "
    "network.layers_per_block=1"
)
MINIMAL = f"train {DATA} {SMALL} callbacks=minimal"
SHALLOW = "network.width=8 network.depth=1"
FLOW = f"{MINIMAL} model=flow {SHALLOW}"
PLAIN = f"train {DATA} {SMALL} model=flow {SHALLOW} callbacks.samples=null callbacks.figures=null"
STEADY = [
    f"train {DATA} {SMALL} {FEW} model=basic_unet",  # with the default callbacks
    f"{MINIMAL} model=unet2d {UNET2D}",
    f"{MINIMAL} model=ddpm {UNET2D} model.num_classes=10 weighting=min_snr",
    f"{MINIMAL} model=score_matching {SHALLOW}",
    f"{MINIMAL} model=edm {SHALLOW} time_sampling.stratified=true",
    f"{FLOW} optimizer=muon lr_scheduler=cosine trainer.gradient_clip_val=1.0 network.width=16",
    f"{FLOW} weighting=learned trainer.precision=bf16-mixed",
    f"{FLOW} optimizer=adamw time_sampling=logit_normal_noisy +callbacks.progress.seconds=0",
    f"{FLOW} model.clipped_to=minus_one_one time_sampling=noise_end",
    f"{PLAIN} callbacks=loss_by_noise",
    f"{PLAIN} callbacks=post_hoc_ema",
]
ON_DEVICE = f"{FLOW} data.on_device=true"
UNGUARDED = f"{FLOW} data.on_device=true callbacks.finite_loss=null"
LOGS = f"{FLOW} trainer.log_every_n_steps=1"
MATCHES = f"{FLOW} pairing=optimal_transport"
SAMPLERS = ("blend", "heun", "ddim", "dpm_solver", "unipc", "deis", "euler", "heun_discrete")
SAMPLERS += ("flow_euler", "flow_heun", "ddpm", "dpm_solver_sde", "euler_ancestral")
SAMPLERS += ("langevin", "reverse_sde")
SAMPLES = [
    *(
        f"sample model=ddpm network=unet_fast sampler={name} sampler.num_steps="
        f"{6 if name == 'langevin' else 5}"
        for name in SAMPLERS
    ),
    "sample model=edm sampler.num_steps=3",
    "sample model=edm sampler=edm_euler sampler.num_steps=3",
    "sample model=edm sampler=edm_dpm_solver sampler.num_steps=3",
    "sample model=flow sampler.num_steps=3 model.num_classes=10",  # guided
    "sample model=score_matching sampler.num_steps=3",
]

COMMANDS = [
    "command sample flow num_samples=4 sampler.num_steps=3 guidance_scale=0,2",
    "command sample ddpm num_samples=4 sampler.num_steps=4",
    "command edit flow edit=inpaint images=test:0-2 num_steps=3 resamplings=2",
    "command edit flow edit=image_to_image images=test:0-2 num_steps=3",
    "command edit ddpm edit=invert images=test:0-2 num_steps=3",
    "command likelihood flow num_images=3 tolerance=0.1",
    "command likelihood ddpm num_images=3 tolerance=0.1 num_timesteps=4",
    "command diagnose flow num_images=8 num_samples=8 sampler.num_steps=2",
]


@pytest.fixture(scope="module")
def recorded():
    """Run all lines; return the record of each, or the error that ended it."""
    lines = [*STEADY, ON_DEVICE, UNGUARDED, LOGS, MATCHES, *SAMPLES, *COMMANDS]
    command = [sys.executable, "-m", "tests.support.pretend_device", *lines]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def steady(recorded, line):
    """Return the steps except the first (may copy a table) and the last (is logged)."""
    assert isinstance(recorded[line], dict), recorded[line]
    steps = recorded[line]["steps"]
    assert len(steps) == 6
    return steps[1:-1]


def copied(step, source):
    return [copy for copy in step["copies"] if copy[0] == source]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=pytest.mark.exhaustive if number in (1, 3, 7, 8) else ())
        for number, line in enumerate(STEADY)
    ],
)
def test_a_step_copies_only_its_batch_and_norms_and_never_synchronizes(recorded, line):
    for step in steady(recorded, line):
        assert step["looks"] == []
        assert [copy[2] for copy in copied(step, "cpu")] == [8 * 28 * 28, 8]
        ((*_, numbers, _),) = copied(step, "pretend")
        assert numbers < 1000  # a norm for each weight
        assert not any(waits for *_, waits in step["copies"])


@pytest.mark.parametrize("line", [*STEADY, ON_DEVICE, UNGUARDED])
def test_losses_match_the_cpu(recorded, line):
    """Up to rounding: vectorized sums depend on the alignment of memory."""
    assert isinstance(recorded[line], dict), recorded[line]
    narrow = "bf16" in line or "DownBlock2D" in line  # the CPU uses another attention
    assert recorded[line]["off"] < (1e-2 if narrow else 1e-5)


def test_images_on_the_device_are_not_copied_again(recorded):
    assert all(copied(step, "cpu") == [] for step in steady(recorded, ON_DEVICE))


def test_without_finite_loss_nothing_is_copied(recorded):
    assert all(step == {"copies": [], "looks": []} for step in steady(recorded, UNGUARDED))


def test_logging_a_loss_is_detected_as_synchronization(recorded):
    assert all(step["looks"] for step in steady(recorded, LOGS))


def test_a_pairing_solved_on_the_cpu_is_detected_as_synchronization(recorded):
    waiting = [copy for step in steady(recorded, MATCHES) for copy in step["copies"] if copy[3]]
    assert waiting


@pytest.mark.parametrize("line", SAMPLES)
def test_samples_match_the_cpu(recorded, line):
    assert recorded[line] is True, recorded[line]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_work_on_the_device(recorded, line):
    assert recorded[line] is True, recorded[line]

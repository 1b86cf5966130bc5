"""Every option of every scheduler: the same as a loop over diffusers' own scheduler, or rejected.

The loop below knows nothing of the lab's samplers. It reads where x stands from the scheduler's own
sigmas and answers with the exact denoiser of Gaussian pixels there, in the closed form.
"""

import inspect

import diffusers
import pytest
import torch

from diffusion_lab.diffusion import StraightPath, VESchedule, VPSchedule, sample_steps
from diffusion_lab.diffusion.ideal_denoiser import GaussianOracle
from diffusion_lab.diffusion.samplers import DiffusersSampler
from diffusion_lab.diffusion.samplers.base import image_generators
from diffusion_lab.diffusion.samplers.scheduler_spaces import EDM, FLOW, KARRAS, SPACES
from diffusion_lab.errors import UserError

MEAN, STD = -0.3, 0.4
STRAIGHT, VE, VP = StraightPath(), VESchedule(), VPSchedule()
VALUES: dict[str, list] = {
    "algorithm_type": ["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver", "deis"],
    "beta_end": [0.03],
    "beta_schedule": ["scaled_linear", "foo"],
    "beta_start": [1e-3],
    "clip_sample_range": [-1, 0.2],
    "disable_corrector": [[0]],
    "dynamic_thresholding_ratio": [0.5],
    "final_sigmas_type": ["sigma_min"],
    "flow_shift": [3.0],
    "interpolation_type": ["log_linear"],
    "lambda_min_clipped": [-2.0],
    "max_shift": [2.0],
    "num_train_timesteps": [500],
    "prediction_type": ["epsilon", "v_prediction", "sample"],
    "rho": [3.0],
    "sample_max_value": [1.5],
    "shift": [3.0, 0.5],
    "shift_terminal": [0.03],
    "sigma_data": [0.3],
    "sigma_max": [50.0],
    "sigma_min": [0.05],
    "sigma_schedule": ["exponential"],
    "solver_order": [1, 2, 3, 4, 0],
    "solver_type": ["heun", "midpoint", "bh1", "bh2", "logrho"],
    "steps_offset": [1],
    "time_shift_type": ["linear"],
    "timestep_type": ["continuous"],
    "trained_betas": [[0.1] * 1000],
    "variance_type": [
        "fixed_small",
        "fixed_small_log",
        "fixed_large",
        "fixed_large_log",
        "learned",
        "learned_range",
    ],
}
BESIDE: dict[str, dict] = {
    "clip_sample_range": {"clip_sample": True},
    "dynamic_thresholding_ratio": {"thresholding": True},
    "sample_max_value": {"thresholding": True},
    "flow_shift": {"use_flow_sigmas": True},
    "steps_offset": {"timestep_spacing": "leading"},
    "lower_order_final": {"solver_order": 3},
    "sigma_min": {"use_karras_sigmas": True},
    "sigma_max": {"use_karras_sigmas": True},
}
"""Settings without which some options change nothing."""


def values_of(name: str, parameter: inspect.Parameter) -> list:
    if parameter.name in VALUES:
        return VALUES[parameter.name]
    if isinstance(parameter.default, bool):
        return [not parameter.default]
    return [(parameter.default or 0) + 1 if isinstance(parameter.default, int | float) else "foo"]


THRESHOLDING = ("thresholding", "dynamic_thresholding_ratio", "sample_max_value")
CASES = [
    (name, key, value)
    for name in SPACES
    for key, parameter in inspect.signature(getattr(diffusers, name)).parameters.items()
    if key != "timestep_spacing"
    for value in values_of(name, parameter)
]


def exact_x0(x, alpha, sigma):
    """E[x0 | x = alpha x0 + sigma noise] of pixels N(MEAN, STD^2)."""
    return MEAN + alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2) * (x - alpha * MEAN)


def own_loop(name, schedule, config, num_steps, eta=None):
    """diffusers' scheduler, its own timesteps, and the exact denoiser at its own sigmas."""
    space = SPACES[name]
    if space is KARRAS or space is EDM:
        config = config | {"prediction_type": "epsilon"}
    elif space is not FLOW:
        config = config | {"prediction_type": "sample"}
    if space.vp:
        config = schedule.scheduler_config | {"timestep_spacing": "trailing"} | config
    divides = config.get("solver_type") == "bh1" or config.get("predict_x0") is False
    if divides or config.get("algorithm_type", "").endswith("dpmsolver"):
        config["final_sigmas_type"] = "sigma_min"
    scheduler = getattr(diffusers, name).from_config(config)
    if space is FLOW:  # the last step as long as the others
        scheduler.sigma_min = 1 / num_steps
    scheduler.set_timesteps(num_steps)
    [generator] = image_generators(0, 0, 1)
    x = torch.randn(1, 8, 8, generator=generator)[None]
    x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
    options = {"eta": eta} if eta is not None else {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = [generator]
    for i, t in enumerate(scheduler.timesteps):
        if not hasattr(scheduler, "sigmas"):
            alpha_bar = scheduler.alphas_cumprod[int(t)]
            alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        else:
            sigma = scheduler.sigmas[i]
            if space is KARRAS or space is EDM:
                alpha = torch.ones(())
            elif space is FLOW or config.get("use_flow_sigmas"):
                alpha = 1 - sigma
            else:
                alpha = 1 / (1 + sigma**2).sqrt()
                sigma = sigma * alpha
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        x0 = exact_x0(x, alpha, sigma)
        noise = (x - alpha * x0) / sigma
        if space is EDM:
            data, variance = scheduler.config.sigma_data, sigma**2 + scheduler.config.sigma_data**2
            output = (x0 - data**2 / variance * x) / (sigma * data / variance.sqrt())
        else:
            output = noise if space is KARRAS else noise - x0 if space is FLOW else x0
        stepped = scheduler.step(output, t, x, **options)
        x = stepped.prev_sample
    if config.get("variance_type") == "fixed_large":
        return stepped.pred_original_sample
    if hasattr(scheduler, "sigmas") and scheduler.sigmas[-1] > 0:  # stops short of the image
        sigma = scheduler.sigmas[-1]
        if "sde" in config.get("algorithm_type", ""):
            return x0
        if config.get("use_flow_sigmas"):
            return (x - sigma * noise) / (1 - sigma)
        return x * (1 + sigma**2).sqrt() - sigma * noise
    return x


def path_of(name, config):
    """A path that the scheduler's levels lie on."""
    if SPACES[name] is FLOW or config.get("use_flow_sigmas"):
        return STRAIGHT
    return VE if SPACES[name] is EDM else VP


def ours(name, schedule, config, num_steps):
    sampler = DiffusersSampler(name, num_steps, **config)
    *_, last = sample_steps(
        GaussianOracle(schedule, MEAN, STD), schedule, sampler, (1, 8, 8), num_images=1, seed=0
    )
    return last.x_next


CLIPS = ("clip_sample", "clip_sample_range", *THRESHOLDING)
"""Options that only change what leaves [-1, 1]."""


@pytest.mark.parametrize(("name", "key", "value"), CASES)
@pytest.mark.filterwarnings("ignore:.*dpmsolver is deprecated:FutureWarning")
def test_an_option_is_what_diffusers_makes_of_it_or_rejected(name, key, value):
    beside = BESIDE.get(key, {})
    schedule = path_of(name, beside | {key: value})
    try:
        drawn = ours(name, schedule, beside | {key: value}, 10)
    except UserError as error:
        reason = str(error)
        drawn = None
    if drawn is None:
        words = THRESHOLDING if key in THRESHOLDING else [key]
        assert "\n" not in reason and any(word in reason for word in words)
        return
    expected = own_loop(name, schedule, beside | {key: value}, 10)
    torch.testing.assert_close(drawn, expected, atol=2e-3, rtol=2e-3)
    default = inspect.signature(getattr(diffusers, name)).parameters[key].default
    if value in (default, "fixed_small_log") or key in CLIPS:  # fixed_small, computed otherwise
        return
    assert (drawn - ours(name, schedule, beside, 10)).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("DPMSolverMultistepScheduler", {"num_train_timesteps": 500}, ["noise schedule"]),
        ("EulerDiscreteScheduler", {"sigma_min": 0.1}, ["use_karras_sigmas=true"]),
        ("UniPCMultistepScheduler", {"solver_order": 0}, ["at least 1"]),
        ("EDMEulerScheduler", {"sigma_data": 0.3}, ["not an option", "changes nothing"]),
        ("DPMSolverMultistepScheduler", {"solver_order": 4}, ["from 1 to 3"]),
        ("DDPMScheduler", {"variance_type": "fixed_large_log"}, ["fixed_large"]),
        ("DDPMScheduler", {"clip_sample_range": -1}, ["above 0"]),
        ("DDIMScheduler", {"clip_sample": False, "clip_sample_range": 2.0}, ["clip_sample=true"]),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, ["reverse_sde"]),
        (
            "UniPCMultistepScheduler",
            {"use_karras_sigmas": True, "use_beta_sigmas": True},
            ["use_karras_sigmas", "use_beta_sigmas", "one of them"],
        ),
    ],
)
def test_what_is_rejected_says_why(name, config, words):
    with pytest.raises(UserError) as error:
        DiffusersSampler(name, 10, **config)
    assert all(word in str(error.value) for word in words)

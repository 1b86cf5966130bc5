"""Schedulers of diffusers as samplers of any run, whatever path it was trained on."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.diffusion.samplers.base import Denoise, LevelDenoiser, Sampler, Step
from diffusion_lab.diffusion.vp_schedule import VPSchedule
from diffusion_lab.errors import UserError

Level = tuple[Tensor, Tensor]
SPACINGS = ("leading", "linspace", "trailing")


@dataclass(frozen=True)
class Space:
    """The coordinates a family of schedulers walks in, and the output it wants of a model there."""

    prediction_type: str | None
    """What the scheduler is told that the model predicts."""
    level: Callable[[Any, int, Tensor], Level]
    """(scheduler, step, timestep) -> alpha () and sigma () of what the scheduler holds as x."""
    output: Callable[[Tensor, Tensor, Level, Any], Tensor]
    """(x0_hat, x, level, scheduler) -> the model output that says just that."""
    vp: bool = False
    """Made from betas: has timesteps of its own to space."""


def _vp_level(scheduler: Any, step: int, timestep: Tensor) -> Level:
    alpha_bar = scheduler.alphas_cumprod.to(timestep.device)[timestep.long()]
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def _ve_level(scheduler: Any, step: int, timestep: Tensor) -> Level:
    sigma = scheduler.sigmas[step].to(timestep.device)
    return torch.ones_like(sigma), sigma


def _flow_level(scheduler: Any, step: int, timestep: Tensor) -> Level:
    sigma = scheduler.sigmas[step].to(timestep.device)
    return 1 - sigma, sigma


def _edm_output(denoised: Tensor, x: Tensor, level: Level, scheduler: Any) -> Tensor:
    sigma, sigma_data = level[1], scheduler.config.sigma_data
    variance = sigma**2 + sigma_data**2
    return (denoised - sigma_data**2 / variance * x) / (sigma * sigma_data * variance**-0.5)


VP = Space("sample", _vp_level, lambda denoised, x, level, scheduler: denoised, vp=True)
# not every scheduler of this family takes "sample"
KARRAS = Space("epsilon", _ve_level, lambda d, x, level, scheduler: (x - d) / level[1], vp=True)
FLOW = Space(None, _flow_level, lambda d, x, level, scheduler: (x - d) / level[1])
EDM = Space("epsilon", _ve_level, _edm_output)

SPACES = {
    "DDPMScheduler": VP,
    "DDIMScheduler": VP,
    "DPMSolverMultistepScheduler": VP,
    "UniPCMultistepScheduler": VP,
    "DEISMultistepScheduler": VP,
    "EulerDiscreteScheduler": KARRAS,
    "EulerAncestralDiscreteScheduler": KARRAS,
    "HeunDiscreteScheduler": KARRAS,
    "FlowMatchEulerDiscreteScheduler": FLOW,
    "FlowMatchHeunDiscreteScheduler": FLOW,
    "EDMEulerScheduler": EDM,
    "EDMDPMSolverMultistepScheduler": EDM,
}
STOCHASTIC = {"DDPMScheduler", "EulerAncestralDiscreteScheduler"}


class DiffusersSampler(Sampler):
    """A scheduler of diffusers, made from the trained noise schedule's own configuration.

    `scheduler` is the name of its class; further keywords go into its configuration (for example
    `solver_order=3`), `eta` to its step. `timestep_spacing` is for schedulers made from betas. A
    fresh scheduler is made for every batch: they carry state from step to step.
    """

    def __init__(
        self,
        scheduler: str,
        num_steps: int,
        timestep_spacing: str | None = None,
        eta: float | None = None,
        **config: Any,
    ) -> None:
        import diffusers

        super().__init__(num_steps)
        if scheduler not in SPACES:
            raise UserError(
                f"sampler.scheduler={scheduler} is unknown: choose from {sorted(SPACES)}"
            )
        self.space = SPACES[scheduler]
        self.scheduler_class = getattr(diffusers, scheduler)
        known = set(inspect.signature(self.scheduler_class.__init__).parameters) - {"self"}
        for key in config:
            if key not in known:
                raise UserError(f"sampler.{key}: {scheduler} only has {sorted(known)}")
        self.config = dict(config)
        if self.space.prediction_type is not None:
            self.config["prediction_type"] = self.space.prediction_type
        if self.space.vp:
            spacing = timestep_spacing or "trailing"
            if spacing not in SPACINGS:
                raise UserError(f"sampler.timestep_spacing={spacing}: choose from {list(SPACINGS)}")
            self.config["timestep_spacing"] = spacing
        elif timestep_spacing is not None:
            raise UserError(
                f"sampler.timestep_spacing={timestep_spacing}: {scheduler} spaces its steps itself"
            )
        self.eta = eta
        if eta is not None:
            if "eta" not in inspect.signature(self.scheduler_class.step).parameters:
                raise UserError(f"sampler.eta={eta}: {scheduler} has no eta, sampler=ddim has")
            if not 0 <= eta <= 1:
                raise UserError(f"sampler.eta={eta}: expected a number from 0 to 1")
        self.stochastic = (
            scheduler in STOCHASTIC or bool(eta) or "sde" in str(config.get("algorithm_type", ""))
        )

    @property
    def name(self) -> str:
        return self.scheduler_class.__name__

    def make_scheduler(self, noise_schedule: NoiseSchedule) -> Any:
        """A fresh scheduler with its timesteps set."""
        ratio = noise_schedule.max_ratio
        if self.space.vp:
            scheduler = self.scheduler_class.from_config(
                noise_schedule.scheduler_config | self.config
            )
        elif self.space is FLOW:
            scheduler = self.scheduler_class.from_config(self.config)
            # begin where the run's path begins, and leave the last step as long as the others
            scheduler.sigma_max = 1.0 if math.isinf(ratio) else ratio / (1 + ratio)
            scheduler.sigma_min = scheduler.sigma_max / self.num_steps
        else:
            ends = {
                "sigma_min": max(0.002, noise_schedule.min_ratio),
                "sigma_max": min(80.0, ratio),
            } | self.config
            if not 0 < ends["sigma_min"] < ends["sigma_max"]:
                raise UserError(
                    f"sampler.sigma_min={ends['sigma_min']:.4g}, sampler.sigma_max="
                    f"{ends['sigma_max']:.4g}: expected 0 < sigma_min < sigma_max"
                )
            scheduler = self.scheduler_class.from_config(ends)
        scheduler.set_timesteps(self.num_steps)
        return scheduler

    def check(self, noise_schedule: NoiseSchedule) -> None:
        super().check(noise_schedule)
        if self.space.vp:
            trained = noise_schedule.scheduler_config["num_train_timesteps"]
            if self.num_steps > trained:
                raise UserError(
                    f"sampler.num_steps={self.num_steps}: this noise schedule has only "
                    f"{trained} timesteps"
                )
            zero_snr = noise_schedule.scheduler_config.get("rescale_betas_zero_snr")
            knows = inspect.signature(self.scheduler_class.__init__).parameters
            if zero_snr and "rescale_betas_zero_snr" not in knows:
                raise UserError(
                    f"{self.name} divides by alpha, which is 0 at zero terminal SNR: use "
                    "sampler=ddim, dpm_solver or euler"
                )
            if zero_snr and self.eta:
                raise UserError(
                    f"sampler.eta={self.eta} divides by alpha, which is 0 at zero terminal SNR: "
                    "use sampler.eta=0"
                )
        scheduler = self.make_scheduler(noise_schedule)
        times = scheduler.timesteps.tolist()
        heun = "Heun" in self.name  # visits every time but the first twice
        if len(set(times)) < (self.num_steps if heun else len(times)):
            raise UserError(
                f"{self.name} would visit a timestep twice with these settings: take fewer "
                "sampler.num_steps, or leave out Karras sigmas"
            )
        if self.name == "DDIMScheduler":
            self._check_gaps(times, scheduler.config.num_train_timesteps)
        first = self.space.level(scheduler, 0, scheduler.timesteps[0])
        ratio = (first[1] / first[0]).item()
        if ratio > noise_schedule.max_ratio * 1.001:
            raise UserError(
                f"{self.name} begins at sigma / alpha = {ratio:.4g}, and this noise schedule ends "
                f"at {noise_schedule.max_ratio:.4g}: lower sampler.sigma_max"
            )

    def _check_gaps(self, times: list[int], trained: int) -> None:
        """Raise UserError where DDIM would go to other levels than those it asks the denoiser at.

        diffusers' step goes to t - trained // num_steps, not to the next of its own timesteps.
        """
        gap = trained // self.num_steps
        if any(t - gap != after for t, after in pairwise(times)) or times[-1] >= gap:
            near = min(
                (n for n in range(1, trained + 1) if trained % n == 0),
                key=lambda n: abs(n - self.num_steps),
            )
            raise UserError(
                f"{self.name} always goes down by {trained} // {self.num_steps} = {gap} timesteps, "
                f"and sampler.timestep_spacing={self.config['timestep_spacing']} has others: take "
                f"sampler.timestep_spacing=leading, trailing with sampler.num_steps={near}, or "
                "sampler=blend, the same step to any time"
            )

    def steps(
        self,
        denoise: Denoise,
        noise_schedule: NoiseSchedule,
        noise: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Iterator[Step]:
        scheduler = self.make_scheduler(noise_schedule)
        at_level = LevelDenoiser(denoise, noise_schedule)
        options: dict[str, Any] = {} if self.eta is None else {"eta": self.eta}
        if "generator" in inspect.signature(scheduler.step).parameters:
            options["generator"] = list(generators)
        # flow matching has no init_noise_sigma: it begins at its own sigma_max
        begin = getattr(scheduler, "init_noise_sigma", None) or scheduler.sigma_max
        x = noise * float(begin)
        # a scheduler compares times with its own, which lie on the CPU, and nothing waits there
        times = scheduler.timesteps
        for i, (timestep, there) in enumerate(zip(times, times.to(noise.device), strict=True)):
            model_input = x
            if hasattr(scheduler, "scale_model_input"):
                model_input = scheduler.scale_model_input(x, timestep)
            level = self.space.level(scheduler, i, there)
            if self._own_timestep(noise_schedule, timestep):
                t = there.long()
                x_t, denoised = model_input, denoise(model_input, t.expand(len(x)))
            else:
                t, x_t, denoised = at_level(x, *level)
            output = self.space.output(denoised, x, level, scheduler)
            x = scheduler.step(output, timestep, x, **options).prev_sample
            yield Step(t, x_t, denoised, x)

    def _own_timestep(self, noise_schedule: NoiseSchedule, timestep: Tensor) -> bool:
        """Whether the scheduler's timestep is one that the network was trained on as it is."""
        return (
            self.space.vp
            and isinstance(noise_schedule, VPSchedule)
            and timestep.item() == int(timestep.item())
        )

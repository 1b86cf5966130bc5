"""Schedulers of diffusers as samplers, for any noise schedule of the run."""

import inspect
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.diffusion.samplers.base import Denoise, LevelDenoiser, Sampler, Step
from diffusion_lab.diffusion.samplers.scheduler_options import (
    SIGMA_GRIDS,
    SPACINGS,
    check_options,
    clips,
)
from diffusion_lab.diffusion.samplers.scheduler_spaces import (
    FLOW,
    SPACES,
    at_sigma,
    is_in_table,
    table_ratio,
)
from diffusion_lab.diffusion.vp_schedule import VPSchedule
from diffusion_lab.errors import UserError, unknown_name

STOCHASTIC = {"DDPMScheduler", "EulerAncestralDiscreteScheduler"}
DIVIDE_BY_SIGMA = {
    "algorithm_type": ("dpmsolver", "sde-dpmsolver"),
    "solver_type": ("bh1",),
    "predict_x0": (False,),
}
"""Options with which a solver divides by sigma, so that its last step cannot go to sigma = 0."""
PLACE_BY_SIGMA = (*SIGMA_GRIDS, "use_flow_sigmas")
BEGIN = ("sigma_max", "shift_terminal", "use_flow_sigmas")
"""Options that decide at which noise level a scheduler begins."""


class DiffusersSampler(Sampler):
    """A scheduler of diffusers, made from the noise schedule that the run was trained with.

    `scheduler` is the name of the scheduler's class. Further keywords are options of its
    configuration (for example `solver_order=3`; scheduler_options.py lists them), and `eta` is
    passed to its `step`. Only schedulers made from betas have a `timestep_spacing`. Every batch
    gets a fresh scheduler, because schedulers carry state from step to step. Every step ends at the
    noise level where the next step begins. The last step ends at a clean image, even where the
    scheduler itself would leave noise in the image.
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
            raise UserError(unknown_name("sampler.scheduler", scheduler, sorted(SPACES)))
        self.space = SPACES[scheduler]
        self.scheduler_class = getattr(diffusers, scheduler)
        self.config = dict(config)
        if self.space.vp:
            spacing = timestep_spacing or "trailing"
            if spacing not in SPACINGS:
                raise UserError(unknown_name("sampler.timestep_spacing", spacing, SPACINGS))
            self.config["timestep_spacing"] = spacing
        elif timestep_spacing is not None:
            raise UserError(
                f"sampler.timestep_spacing={timestep_spacing}: {scheduler} spaces its steps "
                "itself; leave out sampler.timestep_spacing="
            )
        check_options(self.scheduler_class, self.config)
        if self.space.prediction_type is not None:
            self.config["prediction_type"] = self.space.prediction_type
        if any(self.config.get(key) in values for key, values in DIVIDE_BY_SIGMA.items()):
            self.config["final_sigmas_type"] = "sigma_min"
        self.eta = eta
        if eta is not None:
            if "eta" not in inspect.signature(self.scheduler_class.step).parameters:
                raise UserError(
                    f"sampler.eta={eta}: {scheduler} has no eta; leave out sampler.eta=, or use "
                    "sampler=ddim"
                )
            if not 0 <= eta <= 1:
                raise UserError(f"sampler.eta={eta}: expected a number from 0 to 1")
        self.stochastic = (
            scheduler in STOCHASTIC or bool(eta) or "sde" in str(config.get("algorithm_type", ""))
        )

    @property
    def name(self) -> str:
        return self.scheduler_class.__name__

    @property
    def clips(self) -> bool:
        return clips(self.scheduler_class, self.config)

    def make_scheduler(self, noise_schedule: NoiseSchedule) -> Any:
        """Make a fresh diffusers scheduler for num_steps steps of this noise schedule."""
        ratio = noise_schedule.max_ratio
        if self.space.vp:
            scheduler = self.scheduler_class.from_config(
                noise_schedule.scheduler_config | self.config
            )
        elif self.space is FLOW:
            scheduler = self.scheduler_class.from_config(self.config)
            # begin at the noisy end of the run, and make the last step as long as the others;
            # set_timesteps maps s to shift s / (1 + (shift - 1) s), which is inverted here
            shift = scheduler.config.shift
            begin = 1.0 if math.isinf(ratio) else ratio / (1 + ratio)
            scheduler.sigma_max = begin / (shift - (shift - 1) * begin)
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
        if self.space.vp and not any(self.config.get(grid) for grid in PLACE_BY_SIGMA):
            self._keep_to_table(scheduler)
        if hasattr(scheduler, "set_begin_index"):
            # a search for the first timestep would take the second of two that round alike
            scheduler.set_begin_index(0)
        return scheduler

    def _keep_to_table(self, scheduler: Any) -> None:
        """Correct the scheduler's timesteps to n = num_steps distinct timesteps in [0, T).

        diffusers computes trailing timesteps as arange(T, 0, -T / n) - 1. Rounding may add a
        timestep -1, which as an index means the last entry of the table: pure noise. This happens
        for 62 values of n up to 1,000. With n = T, some solvers repeat a timestep.
        """
        times, trained = scheduler.timesteps, scheduler.config.num_train_timesteps
        sigmas: Any = getattr(scheduler, "sigmas", None)  # DDPM and DDIM have none
        if self.num_steps == trained and len(times.unique()) < trained:
            scheduler.timesteps = torch.arange(trained - 1, -1, -1).to(times)
            table = table_ratio(scheduler, scheduler.timesteps)
            scheduler.sigmas = torch.cat([table.to(sigmas), sigmas[-1:]])
        elif times.min() < 0:
            scheduler.timesteps = times[times >= 0]
            if sigmas is not None:
                scheduler.sigmas = torch.cat([sigmas[:-1][times >= 0], sigmas[-1:]])
        scheduler.num_inference_steps = self.num_steps

    def check(self, noise_schedule: NoiseSchedule) -> None:
        super().check(noise_schedule)
        if self.space.vp:
            trained = noise_schedule.scheduler_config["num_train_timesteps"]
            if self.num_steps > trained:
                raise UserError(
                    f"sampler.num_steps={self.num_steps}: expected at most the {trained} "
                    "timesteps of this noise schedule"
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
                    f"sampler.eta={self.eta}: DDIM with eta above 0 divides by alpha, which is 0 "
                    "at zero terminal SNR: use sampler.eta=0"
                )
        scheduler = self.make_scheduler(noise_schedule)
        times = scheduler.timesteps
        if self.space.vp and times.max() > trained - 1:
            raise UserError(
                f"sampler.steps_offset={self.config.get('steps_offset')} begins at timestep "
                f"{int(times.max())}, but this noise schedule ends at {trained - 1}: lower "
                "sampler.steps_offset="
            )
        ratios = self._ratios(scheduler)
        begin, end = float(ratios[0]), noise_schedule.max_ratio
        if begin > end * 1.001:
            keys = [key for key in BEGIN if self.config.get(key)]
            change = f"change sampler.{keys[0]}=" if keys else "choose another sampler="
            raise UserError(
                f"{self.name} begins at sigma / alpha = {begin:.4g}, but this noise schedule ends "
                f"at {end:.4g}: {change}"
            )
        levels = ratios.unique_consecutive()  # Heun's visit every level but the first twice
        if len(levels) < self.num_steps or (levels.diff() >= 0).any():
            raise UserError(
                f"{self.name} has only {len(ratios.unique())} distinct noise levels with these "
                f"settings: lower sampler.num_steps={self.num_steps}"
            )
        if self.name == "DDIMScheduler":
            self._check_gaps(times.tolist(), trained)
        if self.name == "HeunDiscreteScheduler":
            self._check_first_step(*levels[:2].tolist())

    def _check_first_step(self, begin: float, after: float | None = None) -> None:
        """Raise UserError if Heun's first step is so long that samples would keep noise.

        The step goes from noise level sigma / alpha = `begin` to `after`. For pixels of standard
        deviation s, here assumed to be 1/2, its error is s^2 begin / (4 after^3), as a fraction of
        sigma. At most 10 % is allowed. With 20 steps of the cosine schedule, which begins at 2e4,
        the error is 60 %.
        """
        if after is not None and begin / (16 * after**3) > 0.1:
            raise UserError(
                f"{self.name} would leave noise in the samples: its first step, from sigma / alpha "
                f"= {begin:.4g} to {after:.4g}, is too long; use sampler=heun, which is also of "
                "second order, or raise sampler.num_steps="
            )

    def _ratios(self, scheduler: Any) -> Tensor:
        """Return the ratio sigma / alpha of every denoiser evaluation of a scheduler, (NFE,)."""
        levels = [self.space.level(scheduler, i, t) for i, t in enumerate(scheduler.timesteps)]
        return torch.stack([sigma / alpha for alpha, sigma in levels])

    def _check_gaps(self, times: list[int], trained: int) -> None:
        """Raise UserError unless each step of DDIM ends at the scheduler's next timestep.

        DDIM's step in diffusers ends at t - trained // num_steps, not at the next timestep.
        """
        gap = trained // self.num_steps
        if any(t - gap != after for t, after in pairwise(times)) or times[-1] >= gap:
            near = min(
                (n for n in range(1, trained + 1) if trained % n == 0),
                key=lambda n: abs(n - self.num_steps),
            )
            raise UserError(
                f"{self.name} always steps down by {trained} // {self.num_steps} = {gap} "
                f"timesteps, but sampler.timestep_spacing={self.config['timestep_spacing']} has "
                "other gaps: use sampler.timestep_spacing=leading, or "
                f"sampler.timestep_spacing=trailing with sampler.num_steps={near}, or "
                "sampler=blend, which allows gaps of any length"
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
        # schedulers of flow matching have no init_noise_sigma: they begin at their first sigma
        begin = getattr(scheduler, "init_noise_sigma", None) or scheduler.sigmas[0]
        x = noise * float(begin)
        # on the CPU, because a scheduler compares them with its own and would wait for a GPU
        times = scheduler.timesteps
        own_times = self.space.vp and isinstance(noise_schedule, VPSchedule)
        for i, (timestep, there) in enumerate(zip(times, times.to(noise.device), strict=True)):
            model_input = x
            if hasattr(scheduler, "scale_model_input"):
                model_input = scheduler.scale_model_input(x, timestep)
            alpha, sigma = self.space.level(scheduler, i, timestep)
            level = alpha.to(noise.device), sigma.to(noise.device)
            if own_times and is_in_table(scheduler, i, timestep):
                t = there.long()
                x_t, denoised = model_input, denoise(model_input, t.expand(len(x)))
            else:
                t, x_t, denoised = at_level(x, *level)
            output = self.space.output(denoised, x, level, scheduler)
            stepped = scheduler.step(output, timestep, x, **options)
            if i < len(times) - 1:
                x_next = stepped.prev_sample
            else:
                x_next = self._finish(scheduler, stepped, x, denoised)
            yield Step(t, x_t, denoised, x_next)
            x = x_next

    def _finish(self, scheduler: Any, stepped: Any, x: Tensor, denoised: Tensor) -> Tensor:
        """Return the clean images of the last step, even where diffusers leaves noise in them.

        `x` is the input of the step. With variance_type=fixed_large DDPMScheduler adds noise after
        the last step too. DEIS, and solvers that divide by sigma, end at the smallest level of
        their table.
        """
        table_ends = hasattr(scheduler, "sigmas") and scheduler.sigmas[-1] > 0
        if not table_ends and self.config.get("variance_type") != "fixed_large":
            return stepped.prev_sample
        if self.stochastic:  # the prediction is the mean of the step's distribution
            return getattr(stepped, "pred_original_sample", denoised)
        alpha, sigma = at_sigma(scheduler, scheduler.sigmas[-2])
        noise = (x - alpha * denoised) / sigma
        alpha, sigma = at_sigma(scheduler, scheduler.sigmas[-1])
        return (stepped.prev_sample - sigma * noise) / alpha

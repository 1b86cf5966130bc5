"""Variance-preserving (VP) noise schedules, from the betas of a diffusers scheduler."""

import math
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.errors import UserError, unknown_name


class VPSchedule(NoiseSchedule):
    """Variance-preserving schedule: alpha^2 + sigma^2 = 1, integer t in [0, num_train_timesteps).

    By Ho et al. 2020 (arXiv 2006.11239), eq. 4, alpha_t^2 = prod_{s<=t} (1 - beta_s). The betas are
    those of diffusers' DDPMScheduler with these settings. Samplers are made from the same settings,
    so training and sampling cannot disagree. `trained_betas` lists the betas one by one, in place
    of the other beta settings. With `rescale_betas_zero_snr` the last timestep is pure noise (Lin
    et al. 2023, arXiv 2305.08891, algorithm 1). With `beta_timesteps`, beta_start and beta_end are
    multiplied by beta_timesteps / num_train_timesteps, so that a schedule of fewer timesteps ends
    at the same noise level, as in improved-diffusion with beta_timesteps=1000. For a t between two
    integers, which only samplers use, log(sigma / alpha) is interpolated.
    """

    init_noise_sigma = 1.0

    def __init__(
        self,
        beta_schedule: str = "linear",
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        rescale_betas_zero_snr: bool = False,
        trained_betas: list[float] | None = None,
        beta_timesteps: int | None = None,
    ) -> None:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        if num_train_timesteps < 2:
            raise UserError(
                f"noise_schedule.num_train_timesteps={num_train_timesteps}: expected at least 2"
            )
        if not 0 < beta_start <= beta_end < 1:
            raise UserError(
                f"noise_schedule.beta_start={beta_start}, noise_schedule.beta_end={beta_end}: "
                "expected 0 < beta_start <= beta_end < 1"
            )
        if beta_timesteps is not None:
            if beta_timesteps < 2:
                raise UserError(
                    f"noise_schedule.beta_timesteps={beta_timesteps}: expected at least 2, or null"
                )
            scale = beta_timesteps / num_train_timesteps
            if beta_end * scale >= 1:
                raise UserError(
                    f"noise_schedule.num_train_timesteps={num_train_timesteps}: the largest beta, "
                    f"{beta_end} for {beta_timesteps} timesteps, becomes {beta_end * scale:.3g}; "
                    "expected below 1: raise noise_schedule.num_train_timesteps= above "
                    f"{int(beta_end * beta_timesteps)}, or use noise_schedule=cosine"
                )
            beta_start, beta_end = beta_start * scale, beta_end * scale
        try:
            betas = DDPMScheduler(
                num_train_timesteps=num_train_timesteps,
                beta_schedule=beta_schedule,
                beta_start=beta_start,
                beta_end=beta_end,
                trained_betas=trained_betas,
            ).betas
        except NotImplementedError:
            known = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
            raise UserError(
                unknown_name("noise_schedule.beta_schedule", beta_schedule, known)
            ) from None
        # betas, because not every scheduler knows every name of a schedule (DDIM lacks sigmoid)
        self._config = {
            "num_train_timesteps": num_train_timesteps,
            "trained_betas": betas.tolist(),
            "rescale_betas_zero_snr": rescale_betas_zero_snr,
        }
        scheduler = DDPMScheduler(**self._config)
        self.num_train_timesteps = num_train_timesteps
        self.rescale_betas_zero_snr = rescale_betas_zero_snr
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod

    @property
    def scheduler_config(self) -> dict[str, Any]:
        return self._config

    def _ratios(self, device: torch.device) -> Tensor:
        self.alphas_cumprod = self.alphas_cumprod.to(device)
        return (1 / self.alphas_cumprod - 1) ** 0.5  # infinite at zero terminal SNR

    def _alpha_bar(self, t: Tensor) -> Tensor:
        self.alphas_cumprod = self.alphas_cumprod.to(t.device)
        if not t.is_floating_point():
            return self.alphas_cumprod[t]
        below = t.floor().long().clamp(0, self.num_train_timesteps - 1)
        above = t.ceil().long().clamp(0, self.num_train_timesteps - 1)
        ratios = self._ratios(t.device)
        log_ratio = torch.lerp(ratios[below].log(), ratios[above].log(), t - below)
        between = 1 / (1 + (2 * log_ratio).exp())
        return torch.where(below == above, self.alphas_cumprod[below], between)

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha_bar(t) ** 0.5

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self._alpha_bar(t)) ** 0.5

    def at(self, position: Tensor) -> Tensor:
        index = (position * self.num_train_timesteps).long()
        return index.clamp(max=self.num_train_timesteps - 1)

    def span(self, n: int) -> Tensor:
        return torch.linspace(0, self.num_train_timesteps - 1, n).long()

    def time_at_noise_ratio(self, ratio: Tensor) -> Tensor:
        log_ratios = self._ratios(ratio.device).log()
        value = ratio.float().log().clamp(log_ratios[0], log_ratios[-1])
        above = torch.searchsorted(log_ratios, value).clamp(1, self.num_train_timesteps - 1)
        low, high = log_ratios[above - 1], log_ratios[above]
        share = torch.where(high.isinf(), value.isinf().float(), (value - low) / (high - low))
        t = above - 1 + share
        # undo the rounding of the logarithm: a level of the table has an integer t
        return torch.where((t - t.round()).abs() < 1e-2, t.round(), t)

    def timesteps(self, num_steps: int) -> Tensor:
        # "trailing" in Table 2 of Lin et al. 2023 (arXiv 2305.08891): the only one of the usual
        # spacings that starts at the noise the network was trained on
        if num_steps > self.num_train_timesteps:
            raise UserError(
                f"sampler.num_steps={num_steps}: expected at most the "
                f"{self.num_train_timesteps} timesteps of this noise schedule"
            )
        steps = torch.arange(num_steps, 0, -1) * self.num_train_timesteps / num_steps
        return steps.round().long() - 1

    def network_time(self, t: Tensor) -> Tensor:
        return t.float()

    @property
    def max_ratio(self) -> float:
        last = self.alphas_cumprod[-1].item()
        return math.inf if last == 0 else (1 / last - 1) ** 0.5

    @property
    def min_ratio(self) -> float:
        return (1 / self.alphas_cumprod[0].item() - 1) ** 0.5

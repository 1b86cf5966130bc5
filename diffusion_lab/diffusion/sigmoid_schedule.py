"""The sigmoid noise schedule of Jabri et al., as betas."""

import math

import torch

from diffusion_lab.diffusion.vp_schedule import VPSchedule
from diffusion_lab.errors import UserError


class SigmoidSchedule(VPSchedule):
    """VP schedule with alpha^2 a sigmoid of the time: Jabri et al. 2022, arXiv 2212.11972.

    The formula is alpha_t^2 = (s(end) - s(start + u (end - start))) / (s(end) - s(start)), at
    least `clip_min`, where s(x) = 1 / (1 + exp(-x / tau)) and u = (t + 1) / num_train_timesteps.
    The beta schedule "sigmoid" of diffusers (noise_schedule=sigmoid) is a different schedule, that
    of GeoDiff, in which beta itself is a sigmoid of the time: Xu et al. 2022, arXiv 2203.02923. The
    alpha^2 of the two schedules differ by up to 0.26.
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        start: float = -3.0,
        end: float = 3.0,
        tau: float = 1.0,
        clip_min: float = 1e-9,
    ) -> None:
        if not (start < end and tau > 0 and 0 < clip_min < 1):
            raise UserError(
                f"noise_schedule.start={start}, noise_schedule.end={end}, "
                f"noise_schedule.tau={tau}, noise_schedule.clip_min={clip_min}: "
                "expected start < end, tau > 0 and 0 < clip_min < 1"
            )
        u = torch.arange(num_train_timesteps + 1, dtype=torch.float64) / max(num_train_timesteps, 1)
        last, first = 1 / (1 + math.exp(-end / tau)), 1 / (1 + math.exp(-start / tau))
        falling = last - torch.sigmoid((start + u * (end - start)) / tau)
        alpha_bar = (falling / (last - first)).clamp(clip_min, 1.0)
        betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
        super().__init__(num_train_timesteps=num_train_timesteps, trained_betas=betas.tolist())

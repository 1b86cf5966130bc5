"""From noise to images: a sampler walks a noise schedule with a denoiser and yields every step.

A sampler never sees the network or its prediction type, only `denoise(x_t, t) -> x0_hat`.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule, VPSchedule
from diffusion_lab.errors import UserError

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, H, W), t (B,)) -> estimate of the clean images (B, C, H, W)."""


class Step(NamedTuple):
    """One step of a sampler; images are (B, C, H, W)."""

    t: Tensor
    """() the time of this step, in the noise schedule's unit."""
    x_t: Tensor
    """What the denoiser got."""
    denoised: Tensor
    """The clean image it saw in that."""
    x_next: Tensor
    """Where the sampler went; of the last step, the result."""


class Sampler(ABC):
    """Walks from noise to images in `num_steps` calls of the denoiser."""

    def __init__(self, num_steps: int) -> None:
        if num_steps < 1:
            raise UserError(f"sampler.num_steps={num_steps}: expected at least 1")
        self.num_steps = num_steps

    @abstractmethod
    def check(self, noise_schedule: NoiseSchedule) -> None:
        """Raise UserError if this sampler cannot walk that path."""

    @abstractmethod
    def steps(
        self,
        denoise: Denoise,
        noise_schedule: NoiseSchedule,
        x: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Iterator[Step]:
        """Yield every step from the noise x (B, C, H, W) on; one generator an image."""


class BlendSampler(Sampler):
    """The deterministic step, one for every path, in the vocabulary of the tutorial a blend.

    noise_hat = (x_t - alpha x0_hat) / sigma, then x_next = alpha' x0_hat + sigma' noise_hat.
    On the straight path that moves x by 1 / (steps left) towards the prediction, which is Euler's
    method for rectified flow; on a VP path it is DDIM with eta 0 (Song et al. 2020, arXiv
    2010.02502, eq. 12). The last step returns the prediction itself.
    """

    def check(self, noise_schedule: NoiseSchedule) -> None:
        noise_schedule.timesteps(self.num_steps)

    def steps(
        self,
        denoise: Denoise,
        noise_schedule: NoiseSchedule,
        x: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Iterator[Step]:
        times = noise_schedule.timesteps(self.num_steps).to(x.device)
        alphas = torch.cat([noise_schedule.alpha(times), times.new_ones(1, dtype=x.dtype)])
        sigmas = torch.cat([noise_schedule.sigma(times), times.new_zeros(1, dtype=x.dtype)])
        for i, t in enumerate(times):
            denoised = denoise(x, t.expand(len(x)))
            noise = (x - alphas[i] * denoised) / sigmas[i]
            x_next = alphas[i + 1] * denoised + sigmas[i + 1] * noise
            yield Step(t, x, denoised, x_next)
            x = x_next


class DiffusersSampler(Sampler):
    """Any scheduler of diffusers that steps on a VP path, made from the trained schedule's config.

    `scheduler` is the name of its class; further keywords go into its configuration (for example
    `solver_order=3`), `eta` to its step. A fresh scheduler is made for every batch: they carry
    state from step to step.
    """

    def __init__(
        self,
        scheduler: str,
        num_steps: int,
        timestep_spacing: str = "trailing",
        eta: float | None = None,
        **config: Any,
    ) -> None:
        import diffusers

        super().__init__(num_steps)
        if not scheduler.endswith("Scheduler") or not hasattr(diffusers, scheduler):
            raise UserError(f"sampler.scheduler={scheduler}: diffusers has no such scheduler")
        self.scheduler_class = getattr(diffusers, scheduler)
        known = inspect.signature(self.scheduler_class.__init__).parameters
        for key in config:
            if key not in known:
                raise UserError(
                    f"sampler.{key}: {scheduler} has no such setting, it has "
                    f"{sorted(set(known) - {'self'})}"
                )
        spacings = ("leading", "linspace", "trailing")
        if timestep_spacing not in spacings:
            raise UserError(
                f"sampler.timestep_spacing={timestep_spacing}: choose from {list(spacings)}"
            )
        self.config = {**config, "timestep_spacing": timestep_spacing, "prediction_type": "sample"}
        self.step_options: dict[str, Any] = {}
        if eta is not None:
            if "eta" not in inspect.signature(self.scheduler_class.step).parameters:
                raise UserError(f"sampler.eta={eta}: {scheduler} has no eta, sampler=ddim has")
            self.step_options["eta"] = eta

    def check(self, noise_schedule: NoiseSchedule) -> None:
        name = self.scheduler_class.__name__
        if not isinstance(noise_schedule, VPSchedule):
            raise UserError(
                f"{name} walks variance-preserving paths (noise_schedule=linear, scaled_linear, "
                f"cosine, sigmoid), not {type(noise_schedule).__name__}: use sampler=blend"
            )
        if self.num_steps > noise_schedule.num_train_timesteps:
            raise UserError(
                f"sampler.num_steps={self.num_steps}: this noise schedule has only "
                f"{noise_schedule.num_train_timesteps} timesteps"
            )

    def steps(
        self,
        denoise: Denoise,
        noise_schedule: NoiseSchedule,
        x: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Iterator[Step]:
        self.check(noise_schedule)
        assert isinstance(noise_schedule, VPSchedule)
        scheduler = self.scheduler_class.from_config(noise_schedule.scheduler_config, **self.config)
        scheduler.set_timesteps(self.num_steps, device=x.device)
        options = dict(self.step_options)
        if "generator" in inspect.signature(scheduler.step).parameters:
            options["generator"] = list(generators)
        x = x * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            model_input = scheduler.scale_model_input(x, t)
            denoised = denoise(model_input, t.expand(len(x)))
            x_next = scheduler.step(denoised, t, x, **options).prev_sample
            yield Step(t, model_input, denoised, x_next)
            x = x_next


def image_generators(seed: int, first: int, count: int) -> list[torch.Generator]:
    """One CPU generator an image: image k of a seed is the same in every batch and on every device.

    Seed and index are hashed together, so that image 1 of seed 0 is not image 0 of seed 1.
    """
    states = (
        np.random.SeedSequence((seed, k)).generate_state(1, np.uint64)[0]
        for k in range(first, first + count)
    )
    return [torch.Generator().manual_seed(int(state)) for state in states]


def sample_steps(
    denoise: Denoise,
    noise_schedule: NoiseSchedule,
    sampler: Sampler,
    shape: tuple[int, int, int],
    *,
    num_images: int,
    seed: int,
    first: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Step]:
    """Walk images first .. first + num_images - 1 of a seed from noise; shape is (C, H, W)."""
    sampler.check(noise_schedule)
    generators = image_generators(seed, first, num_images)
    one = torch.empty(shape)
    noise = torch.stack([noise_schedule.draw_noise(one, g) for g in generators]).to(device)
    with torch.no_grad():
        yield from sampler.steps(denoise, noise_schedule, noise, generators)

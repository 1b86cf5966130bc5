"""Image editing with a denoiser: encoding, interpolation, image to image, inpainting.

Every function takes `denoise(x_t, t) -> x0_hat` and works on any path. Images are (B, C, H, W) in
the network's range; where noise is drawn, there is one generator an image, as in sampling.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise_schedule import NoiseSchedule
from diffusion_lab.diffusion.samplers.base import Denoise, first_noise, fresh_noise
from diffusion_lab.diffusion.samplers.ode import Levels, levels_to_clean, solve
from diffusion_lab.errors import UserError

RESAMPLINGS = 10
"""Default number of passes of `inpaint` over every part of a path with Gaussian noise."""


def _whole_path(noise_schedule: NoiseSchedule, num_steps: int, like: Tensor) -> Levels:
    return levels_to_clean(noise_schedule, noise_schedule.timesteps(num_steps).to(like.device))


@torch.no_grad()
def encode(
    denoise: Denoise,
    noise_schedule: NoiseSchedule,
    images: Tensor,
    *,
    num_steps: int,
    second_order: bool = True,
) -> Tensor:
    """Solve the ODE from images to their noise, in a sampler's unit scale.

    Song et al. 2020 (arXiv 2010.02502), section 4.3. Heun's steps, or Euler's, from the clean end
    up through the levels that a sampler of num_steps steps comes down. (B, C, H, W) -> same.
    """
    levels = _whole_path(noise_schedule, num_steps, images).flip()
    *_, last = solve(denoise, noise_schedule, images, levels, second_order=second_order)
    return last.x_next / noise_schedule.init_noise_sigma


@torch.no_grad()
def decode(
    denoise: Denoise,
    noise_schedule: NoiseSchedule,
    noise: Tensor,
    *,
    num_steps: int,
    second_order: bool = True,
) -> Tensor:
    """Solve the ODE from noise to images, as HeunSampler does, or BlendSampler.

    Like them it ends on the prediction, right where images fill little of their space, and an error
    of (sigma / alpha)^2 of the last level where their density is smooth. (B, C, H, W) -> same.
    """
    levels = _whole_path(noise_schedule, num_steps, noise)
    x = noise * noise_schedule.init_noise_sigma
    *_, last = solve(denoise, noise_schedule, x, levels, second_order=second_order)
    return last.x_next


def spherical(first: Tensor, second: Tensor, shares: Tensor, center: float = 0.0) -> Tensor:
    """Points on the arc around `center` from first to second, both (C, H, W), at shares (n,).

    Song et al. 2020 (arXiv 2010.02502), eq. 67. The mean of two independent noises has half their
    variance and is no noise of the path; on the arc the mean and the variance of a pixel stay what
    they are, whatever the noise's distribution. -> (n, C, H, W).
    """
    a, b = first - center, second - center
    cosine = torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)
    angle = cosine.clamp(-1, 1).acos()
    share = shares.view(-1, 1, 1, 1)
    if angle.sin() < 1e-4:  # as good as parallel: the arc is the straight line
        return torch.lerp(first, second, share)
    return center + (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()


def interpolate(
    denoise: Denoise,
    noise_schedule: NoiseSchedule,
    first: Tensor,
    second: Tensor,
    *,
    num_points: int,
    num_steps: int,
    second_order: bool = True,
) -> Tensor:
    """Interpolate between two images (C, H, W) on an arc between their encodings.

    Song et al. 2020 (arXiv 2010.02502), section 5.3, around the mean of the path's noise. The ends
    are the reconstructions of the two images. -> (num_points, C, H, W).
    """
    noises = encode(
        denoise,
        noise_schedule,
        torch.stack([first, second]),
        num_steps=num_steps,
        second_order=second_order,
    )
    shares = torch.linspace(0, 1, num_points).to(first)
    arc = spherical(noises[0], noises[1], shares, center=noise_schedule.noise_mean)
    return decode(denoise, noise_schedule, arc, num_steps=num_steps, second_order=second_order)


@torch.no_grad()
def image_to_image(
    denoise: Denoise,
    noise_schedule: NoiseSchedule,
    images: Tensor,
    *,
    strength: float,
    num_steps: int,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Add noise up to a position on the path and denoise from there, in num_steps Heun steps.

    SDEdit: Meng et al. 2021 (arXiv 2108.01073), algorithm 1, by the ODE, which is right for any
    noise. strength is in (0, 1]; at 1 nothing is left of the image on a path that
    ends at pure noise. (B, C, H, W) -> same.
    """
    times = strength_times(noise_schedule, strength, num_steps).to(images.device)
    x = noised(noise_schedule, images, times[:1], generators)
    levels = levels_to_clean(noise_schedule, times)
    *_, last = solve(denoise, noise_schedule, x, levels, second_order=True)
    return last.x_next


def noised(
    noise_schedule: NoiseSchedule,
    images: Tensor,
    t: Tensor,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """The images at t (1,), with noise for every image from its own generator. (B, C, H, W)."""
    noise = first_noise(noise_schedule, images.shape[1:], generators).to(images)
    return noise_schedule.add_noise(images, noise, t)


def strength_times(noise_schedule: NoiseSchedule, strength: float, num_steps: int) -> Tensor:
    """num_steps times from position `strength` on the path down, noisiest first.

    Fewer where the path has fewer: VP's are whole numbers.
    """
    if not 0 < strength <= 1:
        raise UserError(f"strength={strength}: expected a number above 0, up to 1")
    positions = strength * (1 - torch.arange(num_steps) / num_steps)
    return torch.unique_consecutive(noise_schedule.at(positions))


@torch.no_grad()
def inpaint(
    denoise: Denoise,
    noise_schedule: NoiseSchedule,
    images: Tensor,
    known: Tensor,
    *,
    num_steps: int,
    generators: Sequence[torch.Generator],
    resamplings: int | None = None,
    jump_length: int = 2,
) -> Tensor:
    """Fill in the unknown pixels so that they fit the known ones.

    RePaint: Lugmayr et al. 2022 (arXiv 2201.09865), algorithm 1, for any alpha and sigma. At every
    level the known pixels are the image, noised to that level, the others an ancestral step of the
    denoiser. So that the two agree, each stretch of jump_length steps is noised back by the forward
    process and denoised again, `resamplings` times in all (see `check_resamplings`).

    That needs Gaussian noise twice: for the noise an ancestral step adds and for a forward process
    between two levels. On a path with other noise the step is the deterministic one, the known
    pixels move on their own straight line to the noise drawn first, and there is one pass.

    images (B, C, H, W), known bool, broadcastable to them -> (B, C, H, W), known pixels untouched.
    """
    gaussian = noise_schedule.noise == "gaussian"
    resamplings = check_resamplings(noise_schedule, num_steps, resamplings, jump_length)
    times, alphas, sigmas = _whole_path(noise_schedule, num_steps, images)
    noise = first_noise(noise_schedule, images.shape[1:], generators).to(images)
    x = noise * noise_schedule.init_noise_sigma
    for here, there in pairwise(repaint_order(num_steps, resamplings, jump_length)):
        alpha, sigma, to_alpha, to_sigma = alphas[here], sigmas[here], alphas[there], sigmas[there]
        if gaussian:
            noise = fresh_noise(x, generators)
        if there < here:  # q(x_noisier | x)
            kept = to_alpha / alpha
            x = kept * x + (to_sigma**2 - (kept * sigma) ** 2).sqrt() * noise
            continue
        denoised = denoise(x, times[here].expand(len(x)))
        noise_hat = (x - alpha * denoised) / sigma
        # q(x_cleaner | x, x0_hat) keeps this share of the noise that was there: Ho et al. 2020
        # (arXiv 2006.11239), eq. 7, with sigma / alpha written for its betas
        share = (to_sigma * alpha) / (sigma * to_alpha) if gaussian else torch.ones_like(sigma)
        noise_next = share * noise_hat + (1 - share**2).sqrt() * noise
        # one draw does for both: no pixel is known and unknown
        x = torch.where(
            known, to_alpha * images + to_sigma * noise, to_alpha * denoised + to_sigma * noise_next
        )
    return x


def check_resamplings(
    noise_schedule: NoiseSchedule, num_steps: int, resamplings: int | None, jump_length: int
) -> int:
    """Return the number of passes, by default RESAMPLINGS, or 1 where the noise is not Gaussian.

    Raises UserError for more than 1 there: x_noisier given x is no Gaussian step then.
    """
    gaussian = noise_schedule.noise == "gaussian"
    if resamplings is None:
        resamplings = RESAMPLINGS if gaussian else 1
    if resamplings < 1 or jump_length < 1:
        raise UserError(
            f"resamplings={resamplings}, jump_length={jump_length}: expected at least 1"
        )
    if resamplings > 1 and not gaussian:
        raise UserError(
            f"resamplings={resamplings}: going back adds Gaussian noise, and this noise schedule's "
            f"noise is {noise_schedule.noise}: use resamplings=1"
        )
    if resamplings > 1 and jump_length >= num_steps:
        raise UserError(
            f"jump_length={jump_length}: expected less than num_steps={num_steps}, for example "
            f"num_steps={10 * jump_length}"
        )
    return resamplings


def repaint_order(num_steps: int, resamplings: int, jump_length: int) -> list[int]:
    """The levels RePaint visits, 0 the noisiest, num_steps the clean end.

    Every jump_length levels, counted from the last before the clean end, it goes back as many and
    comes down again, resamplings - 1 times: Lugmayr et al. 2022 (arXiv 2201.09865), section 4.2.
    """
    left = dict.fromkeys(range(num_steps - 1, jump_length - 1, -jump_length), resamplings - 1)
    order = [0]
    while order[-1] < num_steps:
        here = order[-1]
        if left.get(here, 0) > 0:
            left[here] -= 1
            order.append(here - jump_length)
        else:
            order.append(here + 1)
    return order

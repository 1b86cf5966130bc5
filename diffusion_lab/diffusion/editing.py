"""Image editing with a denoiser: encoding, interpolation, image to image, inpainting.

Every function takes `denoise(x_t, t) -> x0_hat` and works with any noise schedule. Images are
(B, C, H, W) in the network's range. Noise is drawn from one generator per image, as in sampling.
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
"""Default `resamplings` of `inpaint` for Gaussian noise."""


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
    """Solve the probability-flow ODE from images to the noise that a sampler would turn into them.

    Song et al. 2020 (arXiv 2010.02502), section 4.3. Heun steps (Euler steps without
    `second_order`) go up from the clean end through the noise levels of a sampler with num_steps
    steps. (B, C, H, W) -> noise of unit scale (B, C, H, W).
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
    """Solve the probability-flow ODE from noise of unit scale to images.

    The steps are those of HeunSampler, or of BlendSampler without `second_order`. The result is the
    clean image that the denoiser predicts in the last step. This prediction is accurate for images
    on a low-dimensional set. For images with a smooth density its error is of the order of
    (sigma / alpha)^2 at the last level. (B, C, H, W) -> (B, C, H, W).
    """
    levels = _whole_path(noise_schedule, num_steps, noise)
    x = noise * noise_schedule.init_noise_sigma
    *_, last = solve(denoise, noise_schedule, x, levels, second_order=second_order)
    return last.x_next


def spherical(first: Tensor, second: Tensor, shares: Tensor, center: float = 0.0) -> Tensor:
    """Interpolate spherically between first and second, both (C, H, W), around `center`.

    Song et al. 2020 (arXiv 2010.02502), eq. 67, at the fractions `shares` (n,) of the arc from
    first to second. On the arc every pixel keeps its mean and variance, for any distribution of the
    noise. On a straight line the variance would fall: the mean of two independent noises has half
    their variance, unlike the noise of the training. -> (n, C, H, W).
    """
    a, b = first - center, second - center
    cosine = torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)
    angle = cosine.clamp(-1, 1).acos()
    share = shares.view(-1, 1, 1, 1)
    if angle.sin() < 1e-4:  # nearly parallel: the arc is a straight line
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

    Song et al. 2020 (arXiv 2010.02502), section 5.3, with the mean of the noise as the centre of
    the arc. The first and the last result are the reconstructions of the two images.
    -> (num_points, C, H, W).
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
    """Add noise up to the noise level of `strength`, then denoise in num_steps Heun steps.

    SDEdit: Meng et al. 2021 (arXiv 2108.01073), algorithm 1, with the probability-flow ODE in place
    of the SDE, because the ODE is right for any distribution of the noise. `strength` in (0, 1] is
    the position along the noise schedule, from clean to noisy. At strength 1 nothing is left of the
    image if the noise schedule ends at pure noise. (B, C, H, W) -> (B, C, H, W).
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
    """Add noise of time t (1,) to images (B, C, H, W). Each image has its own generator."""
    noise = first_noise(noise_schedule, images.shape[1:], generators).to(images)
    return noise_schedule.add_noise(images, noise, t)


def strength_times(noise_schedule: NoiseSchedule, strength: float, num_steps: int) -> Tensor:
    """Return the num_steps times at which an edit of this strength denoises, noisiest first.

    Strength 1 begins at the noisy end of the noise schedule, strength 0.5 halfway. The times are
    evenly spaced from there to the clean end, which is left out. A noise schedule of whole
    timesteps (VP) gives fewer times if several fall on the same timestep. Raises UserError unless
    `strength` is above 0 and at most 1.
    """
    if not 0 < strength <= 1:
        raise UserError(f"strength={strength}: expected a number above 0 and at most 1")
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
    level the known pixels are those of the image, noised to that level, and the other pixels come
    from an ancestral step of the denoiser. To make the two kinds of pixels agree, each group of
    jump_length steps is noised back by the forward process and denoised again, `resamplings` times
    in all (see `check_resamplings`).

    Both the ancestral step and the forward process between two levels need Gaussian noise. With
    other noise the denoising step is deterministic, the known pixels get the same noise at every
    level, and each group of steps is done once.

    The images are (B, C, H, W). The bool mask `known` is broadcastable to the images and True for
    known pixels. -> (B, C, H, W), with the known pixels unchanged.
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
        # fraction of the noise that q(x_cleaner | x, x0_hat) keeps: Ho et al. 2020
        # (arXiv 2006.11239), eq. 7, with sigma / alpha in place of the betas
        share = (to_sigma * alpha) / (sigma * to_alpha) if gaussian else torch.ones_like(sigma)
        noise_next = share * noise_hat + (1 - share**2).sqrt() * noise
        # both kinds of pixels use the same noise, because no pixel is known and unknown at once
        x = torch.where(
            known, to_alpha * images + to_sigma * noise, to_alpha * denoised + to_sigma * noise_next
        )
    return x


def check_resamplings(
    noise_schedule: NoiseSchedule, num_steps: int, resamplings: int | None, jump_length: int
) -> int:
    """Check the options of `inpaint` and return how often each group of steps is done.

    With resamplings=None the number is RESAMPLINGS for Gaussian noise and 1 for other noise. Raises
    UserError for numbers out of range, and for more than 1 with other noise, because the forward
    step from x to a noisier x is then not Gaussian.
    """
    gaussian = noise_schedule.noise == "gaussian"
    if resamplings is None:
        resamplings = RESAMPLINGS if gaussian else 1
    if resamplings < 1 or jump_length < 1:
        raise UserError(
            f"resamplings={resamplings}, jump_length={jump_length}: expected numbers of at least 1"
        )
    if resamplings > 1 and not gaussian:
        raise UserError(
            f"resamplings={resamplings}: expected 1, because every resampling adds Gaussian noise, "
            f"but the noise of this noise schedule is {noise_schedule.noise}: use resamplings=1"
        )
    if resamplings > 1 and jump_length >= num_steps:
        raise UserError(
            f"jump_length={jump_length}: expected less than num_steps={num_steps}; lower "
            f"jump_length=, or raise num_steps=, for example num_steps={10 * jump_length}"
        )
    return resamplings


def repaint_order(num_steps: int, resamplings: int, jump_length: int) -> list[int]:
    """Order in which RePaint visits the levels; 0 is the noisiest, num_steps the clean end.

    At every jump_length-th level, counted backwards from num_steps - 1, the order returns to the
    level that is noisier by jump_length levels, resamplings - 1 times: Lugmayr et al. 2022 (arXiv
    2201.09865), section 4.2.
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

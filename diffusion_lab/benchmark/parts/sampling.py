"""Benchmarks of sampling speed, as in scripts/sample.py, against diffusers' pipelines."""

from dataclasses import replace
from typing import Any, cast

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from omegaconf import OmegaConf

from diffusion_lab.benchmark.settings import Settings, run_words
from diffusion_lab.benchmark.table import Row, Target
from diffusion_lab.benchmark.timing import alternate, timed
from diffusion_lab.benchmark.tutorial_baseline import plain_unet2d
from diffusion_lab.config.instantiate import build
from diffusion_lab.data.shape import image_shape
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import Sampler
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.runs.load import Run, load_run
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.scoring.draw_set import counting
from diffusion_lab.system.precision import chosen_precision

DDIM_STEPS = 10
DDPM_WORDS = ("model=ddpm", "sampler=ddim", f"sampler.num_steps={DDIM_STEPS}")
SAME_WEIGHTS = Target(1.2, at_least=True)

FAST = ("experiment=fast_classes",)
"""Overrides of scripts/train.py for the fast recipe, whose sampling is timed."""
FAST_CALLS = 10  # NFE per image
DDPM_STEPS = 1000
TIMED_STEPS = 10  # of DDPM_STEPS
FAST_TARGET = Target(1000, at_least=True)


def sampling(settings: Settings) -> list[Row]:
    """Measure images per second of DDIM sampling against diffusers' DDIMPipeline.

    Both use the same UNet2DModel, the same weights and the same number of steps.
    """
    run = untrained(settings, *DDPM_WORDS)
    sampler = run.sampler()
    unet = _pipeline_unet(settings)
    unet.load_state_dict(run.module.network.unet.state_dict())  # type: ignore[union-attr]
    pipeline = DDIMPipeline(unet, DDIMScheduler(num_train_timesteps=DDPM_STEPS))
    pipeline.set_progress_bar_config(disable=True)

    def diffusers() -> None:
        pipeline(batch_size=settings.num_samples, num_inference_steps=DDIM_STEPS, output_type="np")

    seconds = alternate(
        lambda: timed(diffusers, settings.device),
        lambda: timed(lambda: _draw(run, sampler, settings), settings.device),
        settings.repeats,
    )
    return [
        Row(
            "sampling",
            f"samples, UNet2DModel, {DDIM_STEPS} steps",
            "diffusers' DDIMPipeline in float32, the same weights",
            "images/s",
            seconds.map(lambda s: settings.num_samples / s),
            SAME_WEIGHTS,
            {
                "words": run_words(DDPM_WORDS),
                "precision": chosen_precision(settings.precision, settings.device),
                "batch_size": settings.num_samples,
            },
        )
    ]


def fast_sampling(settings: Settings) -> list[Row]:
    """Measure images per second of sampling with few steps, against diffusers' DDPMPipeline.

    The network and the sampler come from `settings.run`. Without it they come from
    experiment=fast_classes, untrained, because weights do not affect the speed. The time of the
    pipeline's 1,000 steps is scaled from a few steps.
    """
    run = load_run(settings.run) if settings.run else untrained(settings, *FAST)
    run.module.to(settings.device)
    sampler, calls = _sampler_of_calls(run, FAST_CALLS, settings)
    unet = _pipeline_unet(settings)
    scheduler = DDPMScheduler(num_train_timesteps=DDPM_STEPS)
    pipeline = DDPMPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)

    def diffusers() -> None:
        pipeline(batch_size=settings.num_samples, num_inference_steps=TIMED_STEPS, output_type="np")

    # ours is so much faster that timing a single run would be noisy
    _draw(run, sampler, settings)
    once = timed(lambda: _draw(run, sampler, settings), settings.device)
    times = settings.block(once, once, most=50)

    def ours() -> float:
        return timed(
            lambda: [_draw(run, sampler, settings) for _ in range(times)],
            settings.device,
        )

    scale = DDPM_STEPS / TIMED_STEPS
    rates = alternate(
        lambda: settings.num_samples / (scale * timed(diffusers, settings.device)),
        lambda: times * settings.num_samples / ours(),
        settings.repeats,
    )
    return [
        Row(
            "fast_sampling",
            f"samples, fast recipe, NFE {calls:g}",
            f"DDPMPipeline, UNet2DModel, {DDPM_STEPS:,} steps",
            "images/s",
            rates,
            FAST_TARGET,
            {
                "run": settings.run,
                "words": None if settings.run else run_words(FAST),
                "network": "trained" if settings.run else "untrained (weights do not affect speed)",
                "sampler": f"{sampler.name}, {sampler.num_steps} steps",
                "precision": chosen_precision(settings.precision, settings.device),
                "calls": calls,
                "batch_size": settings.num_samples,
                "baseline_steps_timed": TIMED_STEPS,
                "baseline_steps_it_stands_for": DDPM_STEPS,
            },
        )
    ]


def untrained(settings: Settings, *words: str) -> Run:
    """Build a Run with untrained weights from these overrides of scripts/train.py."""
    cfg = settings.compose(*words)
    module: DiffusionModule = build(cfg.model)
    data = cfg.data
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    return Run(
        dir=settings.scratch,
        config=config,
        module=module.eval().requires_grad_(False).to(settings.device),
        value_range=ValueRange(data.value_range),
        image_shape=image_shape(data),
        weights="raw",
    )


def _pipeline_unet(settings: Settings) -> UNet2DModel:
    return plain_unet2d().eval().to(settings.device)


def _draw(run: Run, sampler: Sampler, settings: Settings) -> torch.Tensor:
    return run.sample(
        settings.num_samples,
        sampler=sampler,
        conditioning=Conditioning(),
        batch_size=settings.num_samples,
        precision=settings.precision,
    )


def _sampler_of_calls(run: Run, most: int, settings: Settings) -> tuple[Sampler, float]:
    """Return the run's sampler with as many steps as `most` allows, and the sampler's NFE.

    `most` is the largest allowed number of network evaluations per image (NFE).
    """
    one = replace(settings, num_samples=1)
    for steps in range(most, 0, -1):
        sampler = run.sampler(num_steps=steps)
        with counting(run.module.network) as evaluated:
            _draw(run, sampler, one)
        if evaluated() <= most:
            return sampler, evaluated()
    raise UserError(
        f"run={run.dir}: the run's sampler needs more than {most} network evaluations for a single "
        "step; type another run=, or leave out run="
    )

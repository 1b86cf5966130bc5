"""Estimate the time that the trainings and evaluations of a ladder take."""

import time
from collections.abc import Sequence

import torch

from diffusion_lab.commands.ladder.training_runs import RungRun
from diffusion_lab.config.instantiate import build
from diffusion_lab.data.latents.decoder import range_of
from diffusion_lab.data.shape import image_shape
from diffusion_lab.diffusion import Sampler, sample_steps
from diffusion_lab.evaluation.scorer import FLOOR_DRAWS, ImageScorer
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.modules.cost import cost


class Estimate:
    """Time left, estimated from a few timed steps and corrected by finished trainings.

    `__init__` times a few training steps and a few samples of each rung, and the scorer. These
    times leave out start-up, saving and validation, so `note` scales the estimate by the times of
    finished runs. `lowest` holds one run of each rung, with the first seed.
    """

    def __init__(
        self, lowest: Sequence[RungRun], scorer: ImageScorer, num_samples: int, batch_size: int
    ) -> None:
        count = min(batch_size, num_samples)
        began = time.perf_counter()
        data = lowest[0].config.data
        shape = image_shape(data)
        scorer.extractor(torch.zeros(count, *shape, dtype=torch.uint8))
        extracting = (time.perf_counter() - began) * num_samples / count
        began = time.perf_counter()
        scorer.floor(num_samples)  # real images, because the scorer warns about pure noise
        scoring = extracting + (time.perf_counter() - began) / FLOOR_DRAWS
        few = min(count, 32)
        self._training: dict[int, float] = {}
        self._scoring: dict[int, float] = {}
        for run in lowest:
            module: DiffusionModule = build(run.config.model)
            sampler: Sampler = build(run.config.sampler)
            values = range_of(run.config.data).shape(shape)
            seconds = cost(module, values, run.config.data.batch_size)["step_seconds"]
            self._training[run.rung.number] = seconds * run.config.trainer.max_steps
            began = time.perf_counter()
            # to the last step, because a generator that is left early keeps gradients disabled
            for _ in sample_steps(
                module.eval().denoise,
                module.noise_schedule,
                sampler,
                values,
                num_images=few,
                seed=0,
            ):
                pass
            sampling = (time.perf_counter() - began) * num_samples / few
            self._scoring[run.rung.number] = sampling + scoring
        self._expected = self._took = 0.0

    def _seconds(self, run: RungRun) -> float:
        training = 0.0 if run.trained else self._training[run.rung.number]
        return training + self._scoring[run.rung.number]

    def note(self, run: RungRun, seconds: float) -> None:
        """Correct the estimate by a finished run, which took `seconds` to train and score."""
        self._took += seconds
        self._expected += self._training[run.rung.number] + self._scoring[run.rung.number]

    def left(self, runs: Sequence[RungRun]) -> float:
        """Return the estimated seconds to train (if not done yet), sample and score these runs."""
        scale = self._took / self._expected if self._expected else 1.0
        return scale * sum(self._seconds(run) for run in runs)

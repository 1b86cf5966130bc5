"""Class labels and guidance settings for sampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.diffusion import Denoise, GuidedDenoiser, NoiseSchedule, Sampler, sample_steps
from diffusion_lab.diffusion.guidance import EVERYWHERE
from diffusion_lab.errors import UserError
from diffusion_lab.modules.diffusion import DiffusionModule


@dataclass(frozen=True)
class Conditioning:
    """Class labels and guidance for sampling; `of` builds one that is checked against a module."""

    labels: tuple[int, ...] = ()
    """Image k gets labels[k % len(labels)]; empty for no class."""
    guidance_scale: float = 1.0
    interval: tuple[float, float] = EVERYWHERE
    """Range of noise levels sigma / alpha with guidance; outside of this range the scale is 1."""
    weak: DiffusionModule | None = None
    """The weaker model of autoguidance, which replaces the null class."""

    @classmethod
    def of(
        cls,
        module: DiffusionModule,
        labels: Sequence[int] | int | str | None = None,
        guidance_scale: float = 1.0,
        interval: Sequence[float] | None = None,
        weak: DiffusionModule | None = None,
    ) -> "Conditioning":
        """Build a conditioning; UserError if the module does not support the labels or guidance.

        `labels` is one class, several classes, "all" or "none"; None means all classes, if any.
        `interval` is the range of noise levels sigma / alpha with guidance; None means all levels.
        """
        classes = _classes(labels, module.num_classes)
        if not math.isfinite(guidance_scale):
            raise UserError(f"guidance_scale={guidance_scale}: expected a finite number")
        if guidance_scale != 1 and weak is None:
            _check_null_class(module, f"guidance_scale={guidance_scale:g}")
            if not classes:
                raise UserError(
                    f"guidance_scale={guidance_scale:g} needs a class to guide towards, but "
                    "labels=none: type labels=all, or classes such as labels=0,1,2, or "
                    "guidance_scale=1"
                )
        if not classes and module.num_classes is not None:
            _check_null_class(module, "labels=none")
        if weak is not None and weak.num_classes != module.num_classes:
            raise UserError(
                f"autoguidance=: the weaker run has {weak.num_classes or 'no'} classes, but this "
                f"run has {module.num_classes or 'no'} classes: type an earlier checkpoint of this "
                "run, or a run with the same classes"
            )
        low, high = EVERYWHERE if interval is None else _interval(interval)
        return cls(classes, float(guidance_scale), (low, high), weak)

    def labels_of(self, first: int, count: int) -> Tensor | None:
        """Return the classes (count,) of images first to first + count - 1; None for no class."""
        if not self.labels:
            return None
        turns = (k % len(self.labels) for k in range(first, first + count))
        return torch.tensor([self.labels[turn] for turn in turns])

    def denoiser(self, module: DiffusionModule, first: int, count: int) -> Denoise:
        """Return the guided denoiser for images first to first + count - 1."""
        labels = self.labels_of(first, count)
        return GuidedDenoiser(
            module.denoise,
            module.noise_schedule,
            None if labels is None else labels.to(module.device),
            null_label=module.num_classes,
            guidance_scale=self.guidance_scale,
            interval=self.interval,
            weak=None if self.weak is None else self.weak.denoise,
        )

    def network_calls(
        self, sampler: Sampler, noise_schedule: NoiseSchedule, image_shape: tuple[int, int, int]
    ) -> list[int]:
        """Return the network evaluations (NFE) per image in each step, with all guidance branches.

        The evaluations are counted with a denoiser that returns zeros. The global random state does
        not change.
        """
        evaluations: list[int] = []

        def counted(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            evaluations[-1] += len(x_t)  # guidance puts both branches into one batch
            return torch.zeros_like(x_t)

        denoise = GuidedDenoiser(
            counted,
            noise_schedule,
            torch.tensor(self.labels[:1]) if self.labels else None,
            null_label=0,
            guidance_scale=self.guidance_scale,
            interval=self.interval,
            weak=None if self.weak is None else counted,
        )
        evaluations.append(0)
        for _ in sample_steps(
            denoise, noise_schedule, sampler, image_shape, num_images=1, seed=0, device="cpu"
        ):
            evaluations.append(0)
        return evaluations[:-1]


def _classes(labels: Sequence[int] | int | str | None, num_classes: int | None) -> tuple[int, ...]:
    if num_classes is None:
        if labels in (None, "none"):
            return ()
        raise UserError(
            f"labels={labels}: this run has no classes; type labels=none, or train a run with "
            "classes, for example scripts/train.py model=flow model.num_classes=10"
        )
    if labels in (None, "all"):
        return tuple(range(num_classes))
    if labels == "none":
        return ()
    chosen: list[Any] = [labels]
    if isinstance(labels, Sequence) and not isinstance(labels, str):
        chosen = list(labels)
    for label in chosen:
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < num_classes:
            raise UserError(
                f"labels={label}: expected classes from 0 to {num_classes - 1}, for example "
                "labels=0,1,2, or labels=all, or labels=none"
            )
    if not chosen:
        raise UserError(
            "labels=[]: expected at least one class, for example labels=0,1,2, or labels=all, or "
            "labels=none"
        )
    return tuple(chosen)


def _check_null_class(module: DiffusionModule, setting: str) -> None:
    if module.num_classes is None:
        raise UserError(
            f"{setting}: guidance needs classes, but this run has no classes; type "
            "guidance_scale=1, or autoguidance=<weaker run>, or train a run with classes, for "
            "example with model.num_classes=10"
        )
    if module.label_dropout == 0:
        raise UserError(
            f"{setting} needs an unconditional branch (the null class), but model.label_dropout=0 "
            "left it untrained; type labels=all guidance_scale=1, or autoguidance=<weaker run>"
        )


def _interval(interval: object) -> tuple[float, float]:
    given = interval if isinstance(interval, Sequence) else []
    numbers = [v for v in given if type(v) in (int, float)]
    if len(given) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
        raise UserError(
            f"guidance_interval={interval}: expected two noise levels sigma / alpha from low to "
            "high, for example guidance_interval=[0.3,5]"
        )
    return float(numbers[0]), float(numbers[1])

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
    """Checked against a module by `Guide.of`; without labels and scale it changes nothing."""

    labels: tuple[int, ...] = ()
    """Dealt out in turn: image k gets labels[k % len(labels)]. Empty for no class."""
    guidance_scale: float = 1.0
    interval: tuple[float, float] = EVERYWHERE
    """The noise levels that are guided, sigma / alpha."""
    weak: DiffusionModule | None = None
    """The worse model of autoguidance, in place of the null class."""

    @classmethod
    def of(
        cls,
        module: DiffusionModule,
        labels: Sequence[int] | int | str | None = None,
        guidance_scale: float = 1.0,
        interval: Sequence[float] | None = None,
        weak: DiffusionModule | None = None,
    ) -> "Conditioning":
        """Raise UserError for what this module cannot do.

        `labels` is one class or several, "all" or "none"; None means all, where there are classes.
        """
        wanted = _classes(labels, module.num_classes)
        if not math.isfinite(guidance_scale):
            raise UserError(f"guidance_scale={guidance_scale}: expected a finite number")
        if guidance_scale != 1 and weak is None:
            _check_null_class(module, f"guidance_scale={guidance_scale:g}")
            if not wanted:
                raise UserError(
                    f"guidance_scale={guidance_scale:g} with labels=none has no class to pull "
                    "towards: name classes, labels=all"
                )
        if not wanted and module.num_classes is not None:
            _check_null_class(module, "labels=none")
        if weak is not None and weak.num_classes != module.num_classes:
            raise UserError(
                f"autoguidance= has {weak.num_classes or 'no'} classes, this run "
                f"{module.num_classes or 'none'}: give a checkpoint of the same kind of run"
            )
        low, high = EVERYWHERE if interval is None else _interval(interval)
        return cls(wanted, float(guidance_scale), (low, high), weak)

    def labels_of(self, first: int, count: int) -> Tensor | None:
        """The classes of images first .. first + count - 1, (count,); None for no class."""
        if not self.labels:
            return None
        turns = (k % len(self.labels) for k in range(first, first + count))
        return torch.tensor([self.labels[turn] for turn in turns])

    def denoiser(self, module: DiffusionModule, first: int, count: int) -> Denoise:
        """The denoiser for images first .. first + count - 1."""
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
        """Network evaluations (NFE) of one image in each step of a sampler, branches included.

        Counted on a denoiser that does nothing. Draws from no random stream but its own.
        """
        calls: list[int] = []

        def counted(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            calls[-1] += len(x_t)  # guidance puts both branches into one batch
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
        calls.append(0)
        for _ in sample_steps(
            denoise, noise_schedule, sampler, image_shape, num_images=1, seed=0, device="cpu"
        ):
            calls.append(0)
        return calls[:-1]


def _classes(labels: Sequence[int] | int | str | None, num_classes: int | None) -> tuple[int, ...]:
    if num_classes is None:
        if labels in (None, "none"):
            return ()
        raise UserError(
            f"labels={labels}: this run has no classes; train one that has, "
            "scripts/train.py model=flow model.num_classes=10"
        )
    if labels in (None, "all"):
        return tuple(range(num_classes))
    if labels == "none":
        return ()
    wanted: list[Any] = [labels]
    if isinstance(labels, Sequence) and not isinstance(labels, str):
        wanted = list(labels)
    for label in wanted:
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < num_classes:
            raise UserError(
                f"labels={label}: this run has the classes 0 to {num_classes - 1}; give some of "
                "them, labels=0,1,2, or labels=all or none"
            )
    if not wanted:
        raise UserError("labels=[] is empty: give classes, labels=0,1,2, or labels=all or none")
    return tuple(wanted)


def _check_null_class(module: DiffusionModule, setting: str) -> None:
    if module.num_classes is None:
        raise UserError(
            f"{setting}: this run has no classes to be guided by; train one that has, "
            "model.num_classes=10, or give a worse checkpoint, autoguidance="
        )
    if module.label_dropout == 0:
        raise UserError(
            f"{setting} needs the null class, which model.label_dropout=0 left untrained: ask for "
            "classes, labels=all guidance_scale=1, or give a worse checkpoint, autoguidance="
        )


def _interval(interval: object) -> tuple[float, float]:
    given = interval if isinstance(interval, Sequence) else []
    numbers = [v for v in given if type(v) in (int, float)]
    if len(given) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
        raise UserError(
            f"guidance_interval={interval}: expected two noise levels, sigma / alpha, from "
            "low to high, for example guidance_interval=[0.3,5]"
        )
    return float(numbers[0]), float(numbers[1])

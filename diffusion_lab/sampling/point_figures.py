"""Figures of points, or of the first two numbers of other data that are no pixels."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion import BlendSampler, NoiseSchedule, Sampler, Step
from diffusion_lab.diffusion.noise_schedule import per_image
from diffusion_lab.evaluation.energy_distance import EnergyDistance
from diffusion_lab.evaluation.nearest import Nearest
from diffusion_lab.evaluation.point_scorer import flat
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.sampling.data_figures import NEAREST, DataFigures, Solve

POSITIONS = (0.9, 0.6, 0.3, 0.1)
"""Positions of the times that are shown, from noise (1) to data (0)."""
_PATHS = 150  # points whose paths are drawn
_EXAMPLES = 1000
_GRID = 21  # arrows on a side of the vector field
_REACH = 1.5  # the field is shown from -1.5 to 1.5; standardised points have a deviation of 0.5
_CLASSES = 2  # whose vector fields are shown, at most
_STEP = 0.01  # of a position, for the direction of motion


class PointFigures(DataFigures):
    """Scatter plots over real points (N, C, H, W), if there are some at hand."""

    def __init__(self, real: Tensor | None) -> None:
        self.real = real
        self._distance = None if real is None else EnergyDistance(flat(real))

    def write_samples(self, samples: Tensor, path: Path, num_classes: int | None) -> None:
        """Write a scatter plot over real points."""
        figures.save_figure(self._samples(samples, num_classes), path)

    def _samples(self, samples: Tensor, num_classes: int | None) -> Figure:
        labels = _turns(len(samples), num_classes)
        title = f"{len(samples):,} samples"
        if self._distance is not None:
            title += f", energy distance {self._distance(flat(samples)):.2g} to real points"
        return figures.scatter({"samples": samples}, self.real, title, labels)

    def write_sampling(
        self,
        out: Path,
        samples: Tensor,
        steps: Sequence[Step],
        module: DiffusionModule,
        trajectory_steps: int,
        num_classes: int | None,
    ) -> None:
        """Write the samples, an animation and paths of all recorded steps, and the vector field."""
        schedule = module.noise_schedule
        self.write_samples(samples, out / "samples.png", num_classes)
        moving = [_shown_at(step.x_t, step.t, schedule) for step in steps]
        moving.append(samples[: len(moving[0])])
        frames = figures.scatter_frames(moving, self.real, _turns(len(moving[0]), num_classes))
        figures.save_gif(frames, out / "denoising.gif", 1)
        chosen = np.linspace(0, len(steps) - 1, min(trajectory_steps, len(steps))).round()
        few = [steps[k] for k in chosen.astype(int)]
        figures.save_figure(
            self._trajectory(few, schedule, moving[-1], num_classes), out / "trajectory.png"
        )
        figures.save_figure(self._paths(moving), out / "paths.png")
        figures.save_figure(self._field(module), out / "vector_field.png")

    def _trajectory(
        self,
        steps: Sequence[Step],
        schedule: NoiseSchedule,
        samples: Tensor,
        num_classes: int | None,
    ) -> Figure:
        """Plot the points of some steps, and the samples that they end at."""
        panels = {_time(step.t): _shown_at(step.x_t, step.t, schedule) for step in steps}
        labels = _turns(len(samples), num_classes)
        return figures.scatter_panels(panels | {"samples": samples}, self.real, None, labels)

    def write_guidance(
        self,
        path: Path,
        sets: Sequence[Tensor],
        classes: Sequence[int],
        guidance_scales: Sequence[float],
        kind: str,
    ) -> None:
        """Write a panel for each guidance scale, coloured by class."""
        labels = torch.tensor([classes[k % len(classes)] for k in range(len(sets[0]))])
        panels = {
            f"scale {scale:g}": samples
            for scale, samples in zip(guidance_scales, sets, strict=True)
        }
        title = f"samples, coloured by {kind}"
        figures.save_figure(figures.scatter_panels(panels, self.real, title, labels), path)

    def of_training(
        self,
        module: DiffusionModule,
        data: ImageDataModule,
        solve: Solve,
        sampler: Sampler,
        num_samples: int,
        trajectory_steps: int,
    ) -> Iterator[tuple[str, Figure | Tensor]]:
        """Yield data, corruption, predictions, trajectory, paths, vector_field and samples."""
        schedule, device = module.noise_schedule, module.device
        x0, labels = data.examples(_EXAMPLES)
        colours = None if data.num_classes is None else labels
        noise = schedule.draw_noise(x0, torch.Generator().manual_seed(0))
        yield "data", figures.scatter({"data": x0}, None, f"{len(x0):,} training points", colours)
        noised, predicted = {}, {}
        for t in schedule.at(torch.tensor(POSITIONS)):
            each = t.expand(len(x0))
            x_t = schedule.add_noise(x0, noise, each)
            known = module.network_labels(labels.to(device))
            denoised = module.denoise(x_t.to(device), each.to(device), known).cpu()
            shown = _shown_at(x_t, t, schedule)
            noised[_time(t)] = shown
            predicted[_time(t)] = (shown[:_PATHS], denoised[:_PATHS])
        yield "corruption", figures.scatter_panels(noised, None, "noised points", colours)
        yield "predictions", figures.moves(predicted, "from noised points to predicted x0")
        few = solve(BlendSampler(trajectory_steps), num_samples)
        classes = module.num_classes
        yield "trajectory", self._trajectory(few, schedule, few[-1].x_next, classes)
        steps = solve(sampler, num_samples)
        path = [_shown_at(step.x_t, step.t, schedule) for step in steps]
        yield "paths", self._paths([*path, steps[-1].x_next])
        yield "vector_field", self._field(module)
        yield "samples", self._samples(steps[-1].x_next, classes)

    def nearest(self, samples: Tensor, train: Tensor, neighbours: Nearest) -> Figure:
        """Plot the samples with the smallest distances, and their nearest training points."""
        order = np.ascontiguousarray(neighbours.order()[:NEAREST])
        pairs = {
            f"{len(order)} samples nearest to training points": samples[order],
            "these training points": train[neighbours.index[order]],
        }
        return figures.scatter(pairs, train)

    def _paths(self, moving: Sequence[Tensor]) -> Figure:
        few = [points[:_PATHS] for points in moving]
        return figures.paths(few, self.real, f"paths of {len(few[0])} points from noise")

    @torch.no_grad()
    def _field(self, module: DiffusionModule) -> Figure:
        """Plot the direction in which the probability-flow ODE moves points, at several times."""
        schedule, device = module.noise_schedule, module.device
        side = torch.linspace(-_REACH, _REACH, _GRID)
        grid = torch.cartesian_prod(side, side)
        shape = (len(grid), *(self.real.shape[1:] if self.real is not None else (2, 1, 1)))
        points = torch.zeros(shape).flatten(1)
        points[:, :2] = grid[:, : points.shape[1]]
        points = points.view(shape)
        classes = [None] if module.num_classes is None else range(min(module.num_classes, _CLASSES))
        panels = {}
        for label in classes:
            for position in POSITIONS:
                t, later = schedule.at(torch.tensor([position, position - _STEP]))
                alpha, sigma = schedule.alpha(t), schedule.sigma(t)
                x_t = points * _size(t, schedule)
                labels = None if label is None else torch.full((len(x_t),), label, device=device)
                denoised = module.denoise(
                    x_t.to(device), t.to(device).expand(len(x_t)), labels
                ).cpu()
                noise = (x_t - alpha * denoised) / sigma
                moved = schedule.alpha(later) * denoised + schedule.sigma(later) * noise
                name = _time(t) + ("" if label is None else f", class {label}")
                panels[name] = (points, _shown_at(moved, later, schedule) - points)
        return figures.vector_field(panels, self.real, "direction of motion towards the data")


def _turns(count: int, num_classes: int | None) -> Tensor | None:
    """Return the classes of samples, which come in turns; None without classes."""
    return torch.arange(count) % num_classes if num_classes else None


def _time(t: Tensor) -> str:
    return f"t = {t.item():.3g}"


def _size(t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Return the factor by which points at t are shown smaller, above 1 for VE schedules only."""
    return torch.hypot(schedule.alpha(t), schedule.sigma(t)).clamp(min=1)


def _shown_at(x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Scale points x_t (N, ...) at t () of a VE schedule to the size of data."""
    return x_t / per_image(_size(t, schedule).expand(len(x_t)), x_t)

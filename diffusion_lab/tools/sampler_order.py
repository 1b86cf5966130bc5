"""Measure the order of convergence of samplers, on a Gaussian with a known exact solution."""

from collections.abc import Sequence
from pathlib import Path

from diffusion_lab import figures
from diffusion_lab.config.groups import make_sampler, noise_schedules
from diffusion_lab.diffusion import NoiseSchedule, sample_steps
from diffusion_lab.diffusion.ideal_denoiser import GaussianOracle

MEAN, STD = -0.3, 0.4
STEPS = (8, 16, 32, 64, 128)
FIRST_ORDER = (
    ("blend", "blend_gaussian"),
    ("blend", "edm"),
    ("flow_euler", "blend_gaussian"),
    ("edm_euler", "edm"),
)
SECOND_ORDER = (
    ("heun", "blend_gaussian"),
    ("heun", "edm"),
    ("flow_heun", "blend_gaussian"),
    ("edm_dpm_solver", "edm"),
)


def errors(word: str, noise_schedule: NoiseSchedule, steps: Sequence[int]) -> list[float]:
    """Return the RMS error of a sampler for each number of steps in `steps`.

    `word` is the sampler's name, as in sampler=heun. The error is the distance to the exact
    solution of the probability-flow ODE from the sampler's own starting point.
    """
    oracle = GaussianOracle(noise_schedule, MEAN, STD)
    distances = []
    for num_steps in steps:
        solution = list(
            sample_steps(
                lambda x, t: oracle(x.double(), t.double()),
                noise_schedule,
                make_sampler(word, num_steps=num_steps),
                (1, 8, 8),
                num_images=4,
                seed=0,
            )
        )
        begin, end = solution[0], solution[-1]
        # exact solution from the sampler's first point: (x - mean) / std stays constant
        t = begin.t.double()[None]
        alpha, sigma = noise_schedule.alpha(t), noise_schedule.sigma(t)
        spread = ((alpha * STD) ** 2 + sigma**2) ** 0.5
        exact = MEAN + STD / spread * (begin.x_t - alpha * MEAN)
        distances.append((end.x_next - exact).square().mean().sqrt().item())
    return distances


def plot_order(out: Path) -> Path:
    """Plot the errors of first- and second-order samplers over the number of steps."""
    curves = {
        f"{word} on {path}": (STEPS, errors(word, noise_schedules()[path], STEPS))
        for word, path in (*FIRST_ORDER, *SECOND_ORDER)
    }
    curves["1 / steps"] = (STEPS, [0.5 / n for n in STEPS])
    curves["1 / steps^2"] = (STEPS, [0.5 / n**2 for n in STEPS])
    figure = figures.line_plot(curves, "num_steps", "error of the end point", log=True)
    return figures.save_figure(figure, out)


if __name__ == "__main__":
    print(plot_order(Path("docs/sampler_order.png")))
